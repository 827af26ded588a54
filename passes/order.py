"""Put regions into an order that makes fewer pieces.

before:  regions in an order that respects what depends on what, each of a kind
after:   the same regions in such an order with the fewest runs of equal kinds

A run takes all regions of its kind that are ready, and what becomes ready by that: leaving one for
later never helps, since done regions only free others. So an order is given by the kinds of its
runs alone. They are searched breadth first; a state that has done less than another after as many
runs is dropped, which with two kinds leaves one state per starting kind. Regions of a kind that
stands alone are never part of a run: they are taken whenever they are ready, between runs.

Regions then keep as close to their old order as those runs permit, and keep it altogether if it has
no more runs than that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import StateType
from graphopt.region import Region

# Most states kept after as many runs. Random graphs of three kinds were seen to need 6.
_WIDTH = 32
_ALONE = "\0alone"  # stands for a stretch of regions that stand alone


def order_regions(
    graph: Graph, regions: Sequence[Region], kinds: Sequence[str], alone: Collection[str] = ()
) -> tuple[Region, ...]:
    """The regions in an order with the fewest runs.

    Args:
        graph: what the regions compute.
        regions: in a valid order.
        kinds: of each region.
        alone: kinds of which each region is a run of its own.
    """
    needs = dependences(graph, regions)
    runs = _fewest_runs(needs, kinds, alone)
    if sum(kind != _ALONE for kind in runs) >= count_runs(kinds, alone):
        return tuple(regions)
    places = _assign(needs, kinds, runs)
    return tuple(regions[n] for n in sorted(range(len(regions)), key=lambda n: (places[n], n)))


def count_runs(kinds: Sequence[str], alone: Collection[str]) -> int:
    """How many runs there are of kinds that do not stand alone."""
    return sum(
        kind not in alone and (number == 0 or kinds[number - 1] != kind)
        for number, kind in enumerate(kinds)
    )


def dependences(graph: Graph, regions: Sequence[Region]) -> list[set[int]]:
    """For each region those that must run before it: it reads what they make, or overwrites it.

    A state is updated in place, so whoever reads a version comes before whoever writes the next.
    """
    maker = {
        value: number
        for number, region in enumerate(regions)
        for place in region.nodes
        for value in graph.nodes[place].outputs
        if value in region.outputs or isinstance(value.type, StateType)
    }
    needs: list[set[int]] = [set() for _ in regions]
    for number, region in enumerate(regions):
        needs[number] |= {maker[value] for value in region.inputs if value in maker}
    readers: dict[Value, set[int]] = {}
    for number, region in enumerate(regions):
        for value in region.inputs:
            if isinstance(value.type, StateType):
                readers.setdefault(value, set()).add(number)
    for value, users in readers.items():
        for writer in (n for n in users if _writes(graph, regions[n], value)):
            needs[writer] |= users - {writer}
    return needs


def _writes(graph: Graph, region: Region, state: Value) -> bool:
    """Whether a region makes the next version of a state."""
    nodes = [graph.nodes[place] for place in region.nodes]
    return any(
        state in node.inputs and any(isinstance(v.type, StateType) for v in node.outputs)
        for node in nodes
    )


@dataclass(frozen=True, slots=True)
class _State:
    """What is done, one bit a region, after runs of some kinds."""

    done: int
    runs: tuple[str, ...]


def _fewest_runs(
    needs: Sequence[set[int]], kinds: Sequence[str], alone: Collection[str]
) -> tuple[str, ...]:
    """Kinds of the runs of a shortest order; each stretch of regions that stand alone is one."""
    masks = [sum(1 << other for other in before) for before in needs]
    everything = (1 << len(needs)) - 1

    def take(state: _State, chosen: Collection[str], name: str) -> _State:
        done = state.done
        for number, kind in enumerate(kinds):
            if kind in chosen and not done >> number & 1 and not masks[number] & ~done:
                done |= 1 << number
        return state if done == state.done else _State(done, (*state.runs, name))

    choices = [kind for kind in dict.fromkeys(kinds) if kind not in alone]
    states = [take(_State(0, ()), alone, _ALONE)]
    while not any(state.done == everything for state in states):
        grown = [
            take(longer, alone, _ALONE)
            for state in states
            for kind in choices
            if (longer := take(state, (kind,), kind)) is not state
        ]
        states = list(_undominated(grown))[:_WIDTH]
    return next(state.runs for state in states if state.done == everything)


def _undominated(states: Sequence[_State]) -> Iterator[_State]:
    """The states that no other has done more than, the farthest first."""
    kept: list[int] = []
    for state in sorted(states, key=lambda state: -state.done.bit_count()):
        if not any(state.done | other == other for other in kept):
            kept.append(state.done)
            yield state


def _assign(needs: Sequence[set[int]], kinds: Sequence[str], runs: Sequence[str]) -> list[int]:
    """The run of each region: the current one of the old order where that works out."""
    known = set(runs)
    named = [kind if kind in known else _ALONE for kind in kinds]
    latest = [len(runs) - 1] * len(needs)
    for number in reversed(range(len(needs))):
        while runs[latest[number]] != named[number]:
            latest[number] -= 1
        for before in needs[number]:
            latest[before] = min(latest[before], latest[number])
    places: list[int] = []
    current = 0
    for number, earlier in enumerate(needs):
        current = max([current, *(places[other] for other in earlier)])
        while current < latest[number] and runs[current] != named[number]:
            current += 1
        current = min(current, latest[number])
        places.append(current)
    return places
