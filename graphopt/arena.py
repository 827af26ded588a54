"""Where in one block of memory each slot of a plan lies, at given sizes.

before:  slots with sizes as expressions and lives as step numbers
after:   a byte offset for each, such that no two that live at the same time overlap

Lives are intervals of steps, so the largest sum of live bytes is a lower bound that most often is
reached. Lives are placed one after the other, each into the lowest gap; what counts is the order:
the crowded steps first, or the large first; where none of these reaches the bound, what reached
above it is placed earlier the next time. A layout also holds for all smaller sizes, because then no
slot is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from graphopt.ir.shape import Dim, evaluate
from graphopt.plan import Plan

ALIGNMENT = 64
# How long to look for a better layout: lives placed in all, and rounds at least. Of 440 layouts
# (55 decoders, node by node and fused, at 4 sizes) 324 reach the bound by one of the orders, and
# all but one within 180 placings.
_PLACED = 20_000
_LEAST_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Life:
    """Bytes that are needed from step ``first`` to step ``last``, both included."""

    nbytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Layout:
    """An arena at given sizes.

    Attributes:
        offsets: of each slot but the plan's inputs, in bytes, by its number; multiples of 64.
        workspaces: of each step that needs a workspace, likewise, by the step's number.
        peak_bytes: size of the arena, a multiple of 64.
        bound_bytes: the largest sum of live bytes in any step, each rounded up to 64: no arena is
            smaller.
    """

    offsets: Mapping[int, int]
    workspaces: Mapping[int, int]
    peak_bytes: int
    bound_bytes: int


def layout(plan: Plan, sizes: Mapping[str, int]) -> Layout:
    """Place a plan's slots and its steps' workspaces. Inputs lie where the caller has them.

    Args:
        plan: what runs.
        sizes: values of the symbols T, R, S and P.

    Raises:
        IRError: an expression has a symbol without a value.

    Usage: ``layout(plan, {"T": 64, "R": 64, "S": 64, "P": 8}).peak_bytes``.
    """
    known: dict[Dim, int] = {}

    def bytes_of(dim: Dim) -> int:
        if dim not in known:
            known[dim] = max(0, evaluate(dim, sizes))
        return known[dim]

    given = set(plan.inputs.values())
    slots = {number: slot for number, slot in enumerate(plan.slots) if number not in given}
    working = {n: step for n, step in enumerate(plan.steps()) if step.workspace != 0}
    lives = [Life(bytes_of(slot.nbytes), slot.first, slot.last) for slot in slots.values()]
    lives += [Life(bytes_of(step.workspace), n, n) for n, step in working.items()]
    places, peak, bound = pack(lives)
    return Layout(
        dict(zip(slots, places, strict=False)),
        dict(zip(working, places[len(slots) :], strict=True)),
        peak,
        bound,
    )


def pack(lives: Sequence[Life]) -> tuple[list[int], int, int]:
    """Offsets for ``lives``, the bytes they take together, and the fewest they could take."""
    packer = _Packer(lives)
    best: list[int] = []
    peak = -1
    for offsets in packer.attempts():
        height = packer.height(offsets)
        if peak < 0 or height < peak:
            best, peak = offsets, height
        if peak == packer.bound:
            break
    return [line * ALIGNMENT for line in best], peak * ALIGNMENT, packer.bound * ALIGNMENT


class _Packer:
    """Places lives one by one, each into the lowest gap; counts in lines of 64 bytes."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self.sizes = [-(-life.nbytes // ALIGNMENT) for life in lives]
        self.spans = [range(life.first, life.last + 1) for life in lives]
        self.end = max((life.last for life in lives), default=-1) + 1
        change = [0] * (self.end + 1)
        for life, size in zip(lives, self.sizes, strict=True):
            change[life.first] += size
            change[life.last + 1] -= size
        self.live = list(accumulate(change))
        self.bound = max(self.live)

    def attempts(self) -> Iterator[list[int]]:
        """Placements: by each of some orders, then by orders that learn from the one before."""
        size, span = self.sizes, self.spans
        crowd = [max((self.live[step] for step in steps), default=0) for steps in span]
        keys: tuple[Callable[[int], tuple[int, ...]], ...] = (
            lambda n: (-crowd[n], -len(span[n]), -size[n], span[n].start),
            lambda n: (-size[n], -len(span[n]), span[n].start),
            lambda n: (-size[n], span[n].start),
        )
        placed = [number for number, lines in enumerate(size) if lines]
        for key in keys:
            yield self.place(sorted(placed, key=key))
        yield from self._learn(sorted(placed, key=keys[1]))

    def _learn(self, order: list[int]) -> Iterator[list[int]]:
        """Placements in which what reached above the bound comes earlier the next time.

        How much earlier is partly chance, from a fixed seed, so that two that change places forever
        come apart.
        """
        random = Random(0)
        rank = {number: float(place) for place, number in enumerate(order)}
        for _ in range(max(_LEAST_ROUNDS, _PLACED // max(1, len(order)))):
            offsets = self.place(sorted(order, key=rank.__getitem__))
            yield offsets
            for number in order:
                excess = offsets[number] + self.sizes[number] - self.bound
                if excess > 0:
                    rank[number] -= len(order) * excess / self.bound * (0.5 + 0.5 * random.random())

    def place(self, order: Iterable[int]) -> list[int]:
        """Offsets in lines when lives are placed in this order; 0 for those left out."""
        offsets = [0] * len(self.sizes)
        taken: list[list[tuple[int, int]]] = [[] for _ in range(self.end)]
        for number in order:
            size, steps = self.sizes[number], self.spans[number]
            end = 0
            for start, stop in sorted({part for step in steps for part in taken[step]}):
                if start - end >= size:
                    break
                end = max(end, stop)
            offsets[number] = end
            for step in steps:
                taken[step].append((end, end + size))
        return offsets

    def height(self, offsets: Sequence[int]) -> int:
        """Lines that a placement takes."""
        return max((o + s for o, s in zip(offsets, self.sizes, strict=True) if s), default=0)
