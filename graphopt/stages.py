"""From a traced graph to steps: passes, constants, regions, kernels, slots and pieces, in order.

before:  a graph as the frontend traced it
after:   the graph as it runs, what is computed once, and the plan's steps in pieces

Nothing here decides anything; each stage's result is the next one's input.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.ledger import Ledger, PassReport, refuse
from graphopt.plan import Piece
from graphopt.progress import ProgressFn, silent
from graphopt.region import Region
from graphopt.target import Target

if TYPE_CHECKING:
    from graphopt.codegen.cpp.backend import CppBackend
    from graphopt.codegen.triton.backend import TritonBackend
    from graphopt.passes.hoist import Hoisted
    from graphopt.passes.manager import Observe, Pass, PassContext
    from graphopt.passes.memory import MemoryPlan


NO_COMPILER = (
    "there is no C++ compiler with OpenMP here, so PyTorch runs every step; install g++ for speed"
)
HOIST = "hoist"  # the name of computing constants once, for ``--disable-pass``


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """What kernels for a GPU are made and compiled for, besides the target.

    Attributes:
        block_size: KV slots in a block.
        most: how large the sizes of a step can be; one that is missing has no end.
        progress: told how far the compiler is.
        deterministic: whether a row's result must not depend on what else is in its step.
        dependent: whether kernels begin while the one before them ends.
        embeds: whether the output's rows become vectors, so that nothing is drawn from them.
    """

    block_size: int
    most: Mapping[str, int]
    progress: ProgressFn = silent
    deterministic: bool = False
    dependent: bool = False
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class Formed:
    """A graph in regions, each with its kernel.

    Attributes:
        hoisted: the graph, and the one that makes its folded weights.
        regions: its regions in running order.
        kernels: backend and kernel name of each region.
        reports: what each pass did.
        seconds: how long the stages after the passes took, by name.
        native: has the kernels, if there are any.
    """

    hoisted: Hoisted
    regions: tuple[Region, ...]
    kernels: tuple[tuple[str, str], ...]
    reports: tuple[PassReport, ...]
    seconds: Mapping[str, float]
    native: CppBackend | TritonBackend | None

    @property
    def graph(self) -> Graph:
        """The graph that the regions compute."""
        return self.hoisted.graph


@dataclass(frozen=True, slots=True)
class Lowered(Formed):
    """A graph as it runs in an engine.

    Attributes:
        memory: slots and steps.
        pieces: the steps in pieces.
    """

    memory: MemoryPlan
    pieces: tuple[Piece, ...]


def stage_names(pipeline: Sequence[Pass]) -> tuple[str, ...]:
    """What ``--disable-pass`` takes: the passes, hoisting, then the fusions."""
    from graphopt.passes.fusion_regions import FUSIONS

    return (*(one.name for one in pipeline), HOIST, *FUSIONS)


def check_names(pipeline: Sequence[Pass], disabled: frozenset[str]) -> None:
    """Demands that there are passes or fusions of these names.

    Raises:
        UsageError: there is none of some name.
    """
    known = stage_names(pipeline)
    if unknown := sorted(disabled - set(known)):
        raise UsageError("no such pass", got=", ".join(unknown), expected=", ".join(known))


def form(
    graph: Graph,
    pipeline: Sequence[Pass],
    target: Target,
    context: PassContext,
    *,
    disabled: frozenset[str] = frozenset(),
    observe: Observe | None = None,
    fixed_weights: bool = True,
    native: bool = False,
    gpu: GpuOptions | None = None,
) -> Formed:
    """Take ``graph`` through the passes, into regions and to kernels.

    Args:
        graph: as traced.
        pipeline: the passes.
        target: what for.
        context: ledger and fuel.
        disabled: names of passes and fusions to leave out.
        observe: called after each pass.
        fixed_weights: whether the weights never change, so that work on them is done once.
        native: whether to make kernels; PyTorch runs every region otherwise.
        gpu: for a GPU, what its kernels are compiled for; none are made without.

    Raises:
        UsageError: a disabled name is unknown.
        MachineError: kernels for a GPU cannot be compiled here.
        CompileError: a stage failed; the message names it.
    """
    from graphopt.codegen.backend import Backend, assign
    from graphopt.codegen.torch import TorchBackend
    from graphopt.passes.fusion_cost import cost_model
    from graphopt.passes.fusion_regions import FUSIONS, fuse_regions
    from graphopt.passes.hoist import hoist, not_hoisted
    from graphopt.passes.manager import check_pipeline, run_passes

    check_names(pipeline, disabled)
    check_pipeline(pipeline)
    names = {one.name for one in pipeline}
    final, reports = run_passes(
        graph, pipeline, context, disabled=disabled & names, observe=observe
    )
    clock = _Clock()
    once = fixed_weights and HOIST not in disabled
    hoisted = hoist(final, context.ledger) if once else not_hoisted(final)
    clock.lap("hoist")
    regions = fuse_regions(hoisted.graph, cost_model(target), context, disabled & set(FUSIONS))
    clock.lap("regions")
    own: CppBackend | TritonBackend | None = None
    if native and target.kind == "cpu":
        own = _cpp_backend(hoisted.graph, regions, context.ledger)
    elif native and gpu is not None:
        own = _triton_backend(hoisted.graph, regions, target, gpu, context.ledger)
    backends: list[Backend] = [*([own] if own else []), TorchBackend()]
    kernels = assign(hoisted.graph, regions, backends, context.ledger)
    clock.lap("kernels")
    return Formed(hoisted, regions, kernels, reports, clock.laps, own)


def lower(
    graph: Graph,
    pipeline: Sequence[Pass],
    target: Target,
    context: PassContext,
    *,
    disabled: frozenset[str] = frozenset(),
    observe: Observe | None = None,
    native: bool = True,
    gpu: GpuOptions | None = None,
) -> Lowered:
    """Take ``graph`` through all stages, to slots and pieces. As :func:`form`."""
    from graphopt.passes.memory import plan_memory
    from graphopt.passes.partition import in_few_pieces, partition, why_not_on

    formed = form(
        graph,
        pipeline,
        target,
        context,
        disabled=disabled,
        observe=observe,
        native=native,
        gpu=gpu,
    )
    clock, why_not = _Clock(), why_not_on(target)
    regions, kernels = in_few_pieces(formed.graph, formed.regions, formed.kernels, why_not)
    clock.lap("order")
    own = formed.native
    workspaces = own.workspaces(kernels) if own else ()
    memory = plan_memory(formed.graph, regions, kernels, workspaces)
    clock.lap("memory")
    pieces = partition(formed.graph, memory.steps, why_not)
    clock.lap("pieces")
    seconds = {**formed.seconds, **clock.laps}
    return Lowered(formed.hoisted, regions, kernels, formed.reports, seconds, own, memory, pieces)


def _cpp_backend(graph: Graph, regions: Sequence[Region], ledger: Ledger) -> CppBackend | None:
    """The C++ backend; None where there is no compiler."""
    from graphopt.codegen.cpp.backend import CppBackend
    from graphopt.codegen.cpp.build import find_compiler

    if find_compiler() is None:
        ledger.record("backend:cpp", graph.name, refuse(NO_COMPILER))
        return None
    return CppBackend(graph, regions)


def _triton_backend(
    graph: Graph, regions: Sequence[Region], target: Target, gpu: GpuOptions, ledger: Ledger
) -> TritonBackend:
    """The Triton backend, with cubins for the target."""
    from graphopt.codegen.triton.autotune import tuned_for
    from graphopt.codegen.triton.backend import TritonBackend

    arch = int(target.arch.removeprefix("sm_"))
    backend = TritonBackend(
        graph,
        regions,
        gpu.block_size,
        arch,
        deterministic=gpu.deterministic,
        dependent=gpu.dependent,
        draws=not gpu.embeds,
    )
    tuned = tuned_for(arch)
    backend.compile(target.arch, gpu.most, tuned, progress=gpu.progress)
    for name, verdict in backend.loop.items():
        ledger.record(f"backend:{backend.name}", name, verdict)
    return backend


def kernel_notes(lowered: Lowered) -> list[str]:
    """What a user should know about who runs a model's steps."""
    if lowered.native is None:
        return [NO_COMPILER]
    steps = lowered.memory.steps
    names = dict.fromkeys(step.name for step in steps if step.backend == "torch")
    if not names:
        return []
    count = sum(step.backend == "torch" for step in steps)
    return [f"PyTorch runs {count} of {len(steps)} steps, which have no kernel: {', '.join(names)}"]


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._since
        self._since = now
