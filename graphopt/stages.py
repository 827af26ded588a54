"""From a traced graph to steps: passes, constants, regions, kernels, slots and pieces, in order.

before:  a graph as the frontend traced it
after:   the graph as it runs, what is computed once, and the plan's steps in pieces

Nothing here decides anything; each stage's result is the next one's input.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.plan import Piece
from graphopt.region import Region
from graphopt.target import Target

if TYPE_CHECKING:
    from graphopt.passes.hoist import Hoisted
    from graphopt.passes.manager import Observe, Pass, PassContext, PassReport
    from graphopt.passes.memory import MemoryPlan


@dataclass(frozen=True, slots=True)
class Lowered:
    """A graph as it runs.

    Attributes:
        hoisted: the graph, and the one that makes its folded weights.
        regions: its regions in running order.
        memory: slots and steps.
        pieces: the steps in pieces.
        reports: what each pass did.
        seconds: how long the stages after the passes took, by name.
    """

    hoisted: Hoisted
    regions: tuple[Region, ...]
    memory: MemoryPlan
    pieces: tuple[Piece, ...]
    reports: tuple[PassReport, ...]
    seconds: dict[str, float]

    @property
    def graph(self) -> Graph:
        """The graph that the steps compute."""
        return self.hoisted.graph


def stage_names(pipeline: Sequence[Pass]) -> tuple[str, ...]:
    """What ``--disable-pass`` takes: the passes, then the fusions."""
    from graphopt.passes.fusion_regions import FUSIONS

    return (*(one.name for one in pipeline), *FUSIONS)


def check_names(pipeline: Sequence[Pass], disabled: frozenset[str]) -> None:
    """Demands that there are passes or fusions of these names.

    Raises:
        UsageError: there is none of some name.
    """
    known = stage_names(pipeline)
    if unknown := sorted(disabled - set(known)):
        raise UsageError("no such pass", got=", ".join(unknown), expected=", ".join(known))


def lower(
    graph: Graph,
    pipeline: Sequence[Pass],
    target: Target,
    context: PassContext,
    *,
    disabled: frozenset[str] = frozenset(),
    observe: Observe | None = None,
) -> Lowered:
    """Take ``graph`` through all stages.

    Args:
        graph: as traced.
        pipeline: the passes.
        target: what for.
        context: ledger and fuel.
        disabled: names of passes and fusions to leave out.
        observe: called after each pass.

    Raises:
        UsageError: a disabled name is unknown, or a pass that runs requires it.
        CompileError: a stage failed; the message names it.
    """
    from graphopt.codegen.backend import assign
    from graphopt.codegen.torch import TorchBackend
    from graphopt.passes.fusion_cost import cost_model
    from graphopt.passes.fusion_regions import FUSIONS, fuse_regions
    from graphopt.passes.hoist import hoist
    from graphopt.passes.manager import run_passes
    from graphopt.passes.memory import plan_memory
    from graphopt.passes.partition import in_few_pieces, partition, why_not_on

    check_names(pipeline, disabled)
    final, reports = run_passes(
        graph, pipeline, context, disabled=disabled - set(FUSIONS), observe=observe
    )
    clock = _Clock()
    hoisted = hoist(final, context.ledger)
    clock.lap("hoist")
    regions = fuse_regions(hoisted.graph, cost_model(target), context, disabled & set(FUSIONS))
    clock.lap("regions")
    kernels = assign(hoisted.graph, regions, [TorchBackend()], context.ledger)
    why_not = why_not_on(target)
    regions, kernels = in_few_pieces(hoisted.graph, regions, kernels, why_not)
    clock.lap("kernels")
    memory = plan_memory(hoisted.graph, regions, kernels)
    clock.lap("memory")
    pieces = partition(hoisted.graph, memory.steps, why_not)
    clock.lap("pieces")
    return Lowered(hoisted, tuple(regions), memory, pieces, reports, clock.laps)


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._since
        self._since = now
