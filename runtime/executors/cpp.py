"""Runs a plan's compiled pieces: pointers into weights, memory and inputs, and one call a piece.

An artifact without PyTorch's steps runs here without importing PyTorch. State is paged memory that
only the kernels know the insides of. Between compiled pieces PyTorch runs the steps that have no
kernel, on the same slots.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphopt.arena import ALIGNMENT, Layout
from graphopt.artifact import Artifact
from graphopt.errors import ArtifactError, MachineError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.types import StateType, TensorType
from graphopt.ir.verify import verify
from graphopt.isa import FORCE, host_isa, host_isas
from graphopt.kv_layout import kv_bytes
from graphopt.plan import CPP, Piece, Step
from graphopt.plan_arguments import Argument, Kind, arguments_of, layer_of
from graphopt.region import make_region

from ..executor import F32, Sampled, SamplingInputs, StepInputs, embedded
from ..plan_check import check_plan
from ..threads import ForkGuard, Pinning, limit_spinning, place_threads, this_machine
from ..weight_check import check_weights
from .native_sampler import NativeSampler
from .plan_numbers import PlanNumbers
from .slots import Sizes, Slots, aligned, as_f32
from .weight_memory import MMAP, place_weights

if TYPE_CHECKING:
    from .torch_steps import TorchSteps

Pointers = npt.NDArray[np.uint64]
# Told what a step of the plan made: an array for each of its results, bf16 as integers.
Observe = Callable[[Step, Sequence[npt.NDArray[Any]]], None]


class CStep(ctypes.Structure):
    """``Step`` of parallel.h."""

    _fields_ = (
        ("T", ctypes.c_int64),
        ("R", ctypes.c_int64),
        ("S", ctypes.c_int64),
        ("P", ctypes.c_int64),
        ("scratch", ctypes.c_void_p),
        ("scratch_stride", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("last", ctypes.c_int32),
        ("block_size", ctypes.c_int64),
    )


@dataclass(frozen=True, slots=True)
class _Call:
    """A compiled piece.

    Attributes:
        steps: what it computes.
        function: takes a step and pointers.
        arguments: what each pointer points to.
        owners: for each argument the number of its step in the plan.
        inputs: places of the pointers to the step's inputs, and which.
    """

    steps: tuple[Step, ...]
    function: Any
    arguments: tuple[Argument, ...]
    owners: tuple[int, ...]
    inputs: tuple[tuple[int, str], ...]


class CppExecutor(PlanNumbers):
    """Runs the compiled pieces of an artifact on the CPU.

    Args:
        artifact: what to run.
        threads: how many to compute with; None for one per physical core.
        weights: ``mmap`` to read them from the artifact's files, ``copy`` for memory of their own.

    Raises:
        ArtifactError: the plan does not fit its graph, or has no kernels for this CPU.
        MachineError: this process was forked from one that ran kernels.
    """

    def __init__(
        self, artifact: Artifact, *, threads: int | None = None, weights: str = MMAP
    ) -> None:
        ForkGuard.check()
        plan = artifact.plan
        super().__init__(plan)
        placement = place_threads(threads, this_machine())
        self._threads = placement.threads
        limit_spinning()  # before libgomp is loaded with the kernels
        self._graph = parse_graph(artifact.graph_text())
        verify(self._graph)
        check_plan(plan, self._graph)
        self._library = load_kernels(kernels_for_this_cpu(artifact))
        self._pinning = Pinning(self._library, placement)
        check_weights(artifact.weights, self._graph)
        self._calls = self._calls_of(artifact, self._graph)
        self._weights = place_weights(artifact.weights, self._weights_read(), weights, placement)
        self._output = _tensor_type(self._graph.outputs[0].type)
        self._sampler = None
        if plan.embedding is None:
            self._sampler = NativeSampler(
                self._library,
                self._output.dtype.value,
                plan.limits.vocab_size,
                plan.limits.max_rows,
                self._threads,
            )
        self._slots = Slots(plan)
        try:
            self._scratch = aligned(plan.scratch_bytes * self._threads)
        except MemoryError as error:
            raise MachineError(
                "there is no memory for the threads",
                got=f"{plan.scratch_bytes} bytes for each of {self._threads}",
                next="lower the number of threads",
            ) from error
        self._state = aligned(0)
        self._places: dict[tuple[Kind, int], int] = {}
        # Pointers of every call for steps of one layout, and the arena they point into.
        self._pointers: dict[tuple[int, ...], tuple[int, list[Pointers]]] = {}

    def allocate(self, num_blocks: int) -> None:
        """Take memory for ``num_blocks`` KV blocks.

        It is not cleared: nothing reads a slot before it was written, and pages that are never
        touched cost nothing.

        Raises:
            MachineError: there is not enough.
        """
        plan, latent = self._plan, self._plan.state.kind == "latent"
        self._state = aligned(0)
        self._pointers.clear()
        offsets, total = {}, 0
        for number, layer in enumerate(plan.state.layers):
            sizes = kv_bytes(layer, plan.block_size, is_latent=latent)
            for kind, size in zip((Kind.KEYS, Kind.VALUES), sizes, strict=True):
                offsets[kind, number] = total
                total += -(-size * num_blocks // ALIGNMENT) * ALIGNMENT
        try:
            self._state = aligned(total)
        except MemoryError as error:
            raise MachineError(
                "KV memory could not be allocated",
                got=f"{num_blocks} blocks of {plan.bytes_per_block} bytes",
                next="lower kv_cache_memory",
            ) from error
        base = int(self._state.ctypes.data)
        self._places = {key: base + offset for key, offset in offsets.items()}

    def run(self, inputs: StepInputs, sampling: SamplingInputs) -> Sampled:
        """Compute a step, and choose or score a token per row, or give the rows themselves."""
        sizes = self._compute(inputs)
        rows = self._logits(sizes)
        if self._sampler is None:
            return embedded(as_f32(rows, self._output.dtype))
        return self._sampler.sample(rows, sampling)

    def logits(self, inputs: StepInputs, observe: Observe | None = None) -> F32:
        """Compute a step up to its output, f32[R, V]; for comparing numbers.

        Args:
            inputs: the step.
            observe: called with each of the plan's steps and its results; the kernels then run one
                by one.
        """
        sizes = self._compute(inputs, observe)
        return as_f32(self._logits(sizes), self._output.dtype).copy()  # the arena is used again

    def _compute(self, inputs: StepInputs, observe: Observe | None = None) -> Sizes:
        """Run every piece; the answer is the step's sizes.

        Raises:
            MachineError: this process was forked from one that ran kernels.
        """
        ForkGuard.enter()
        sizes = {
            "T": len(inputs.token_ids),
            "R": len(inputs.rows),
            "S": len(inputs.lengths),
            "P": inputs.tables.shape[1],
        }
        self._pinning.hold()
        all_pointers = self._pointers_for(sizes)
        stride = self._plan.scratch_bytes
        scratch = self._scratch.ctypes.data
        step = CStep(*sizes.values(), scratch, stride, self._threads, 0, 0, self.block_size)
        for call, pointers in zip(self._calls, all_pointers, strict=True):
            if not isinstance(call, _Call):
                call.run(self._slots, inputs, sizes, observe)
                continue
            for place, name in call.inputs:
                pointers[place] = getattr(inputs, name).ctypes.data
            for first, last in _ranges(len(call.steps), one_by_one=observe is not None):
                step.first, step.last = first, last
                call.function(ctypes.byref(step), pointers.ctypes.data)
                if observe is not None:
                    observe(call.steps[first], self._results(call.steps[first], sizes))
        return sizes

    def _logits(self, sizes: Sizes) -> npt.NDArray[Any]:
        return self._slots.array(self._plan.output, self._output, sizes)

    def close(self) -> None:
        """Give all memory back."""
        self._state = self._scratch = aligned(0)
        self._slots.close()
        self._pointers.clear()
        self._calls = ()
        self._weights = {}

    def _calls_of(self, artifact: Artifact, graph: Graph) -> tuple[_Call | TorchSteps, ...]:
        calls: list[_Call | TorchSteps] = []
        number = 0
        for piece in self._plan.pieces:
            backends = {step.backend for step in piece.steps}
            if backends == {CPP}:
                calls.append(self._call_of(piece, graph, number))
            elif backends == {"torch"}:
                from .torch_steps import TorchSteps

                calls.append(TorchSteps(artifact, graph, piece))
            else:
                raise ArtifactError(
                    "the plan has steps that do not run on a CPU", got=", ".join(sorted(backends))
                )
            number += len(piece.steps)
        return tuple(calls)

    def _weights_read(self) -> Iterable[str]:
        """Names of the weights that kernels read, in the order in which they first do."""
        calls = [call for call in self._calls if isinstance(call, _Call)]
        return dict.fromkeys(
            argument.name
            for call in calls
            for argument in call.arguments
            if argument.kind is Kind.WEIGHT
        )

    def _call_of(self, piece: Piece, graph: Graph, number: int) -> _Call:
        """The call of a piece whose first step is the plan's step ``number``."""
        arguments: list[Argument] = []
        owners: list[int] = []
        for place, step in enumerate(piece.steps, number):
            found = arguments_of(step, layer_of(graph, step))
            arguments += found
            owners += [place] * len(found)
        names = {slot: name for name, slot in self._plan.inputs.items()}
        inputs = tuple(
            (place, names[argument.number])
            for place, argument in enumerate(arguments)
            if argument.kind is Kind.SLOT and argument.number in names
        )
        function = self._function(f"piece_{piece.body}")
        return _Call(piece.steps, function, tuple(arguments), tuple(owners), inputs)

    def _function(self, name: str) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise ArtifactError(
                "the kernels lack a piece of the plan",
                got=name,
                next="compile the checkpoint again: plan and kernels do not belong together",
            ) from error
        function.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        function.restype = None
        return function

    def _pointers_for(self, sizes: Sizes) -> list[Pointers]:
        """The pointers of every call in a step of ``sizes``, all but those to its inputs."""
        key, places = self._slots.layout_for(sizes)
        base, found = self._pointers.get(key, (0, []))
        if base != self._slots.base:
            found = [
                self._pointers_of(call, places) if isinstance(call, _Call) else _NOTHING
                for call in self._calls
            ]
            self._pointers[key] = self._slots.base, found
        return found

    def _pointers_of(self, call: _Call, places: Layout) -> Pointers:
        base = self._slots.base
        pointers = np.zeros(len(call.arguments), dtype=np.uint64)
        for i, (argument, owner) in enumerate(zip(call.arguments, call.owners, strict=True)):
            if argument.kind is Kind.WEIGHT:
                pointers[i] = self._weights[argument.name].ctypes.data
            elif argument.kind is Kind.WORKSPACE:
                pointers[i] = base + places.workspaces[owner]
            elif argument.kind is Kind.SLOT:
                pointers[i] = base + places.offsets.get(argument.number, 0)
            else:
                pointers[i] = self._places[argument.kind, argument.number]
        return pointers

    def _results(self, step: Step, sizes: Sizes) -> list[npt.NDArray[Any]]:
        """Copies of what a step made."""
        outputs = make_region(self._graph, step.nodes).outputs
        types = [value.type for value in outputs if not isinstance(value.type, StateType)]
        return [
            self._slots.array(slot, _tensor_type(type_), sizes).copy()
            for slot, type_ in zip(step.results, types, strict=True)
        ]


_NOTHING: Pointers = np.zeros(0, dtype=np.uint64)
# The header of a little-endian ELF file of 64 bits: its first bytes, where the table of sections
# is, and the size and number of its entries.
_ELF = struct.Struct("<6s34xQ10xHH2x")


def load_kernels(file: Path) -> ctypes.CDLL:
    """The shared object ``file``.

    Raises:
        ArtifactError: it is none, or only a part of one.
    """
    try:
        # The loader maps what a file says that it has; what is missing shows as a signal later.
        _check_whole(file)
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise ArtifactError(
            "the kernels cannot be loaded",
            where=str(file),
            got=error,
            next="copy the artifact again, or compile the checkpoint again",
        ) from error


def _check_whole(file: Path) -> None:
    """Demand that an ELF file reaches to the end of its table of sections, which stands last.

    Raises:
        OSError: it does not, or is no ELF file.
    """
    with file.open("rb") as stream:
        header = stream.read(_ELF.size)
        size = os.fstat(stream.fileno()).st_size
    if len(header) == _ELF.size:
        magic, table, entry_bytes, entries = _ELF.unpack(header)
        if magic == b"\x7fELF\x02\x01" and 0 < table <= size - entry_bytes * entries:
            return
    raise OSError("the file is cut short, or no shared object of 64 bits")


def kernels_for_this_cpu(artifact: Artifact) -> Path:
    """The artifact's kernels for the best instruction set that this CPU has.

    Raises:
        ArtifactError: it has none for this CPU.
        MachineError: ``GRAPHOPT_ISA`` asks for what the CPU lacks.
    """
    there = artifact.kernels
    wanted = [host_isa()] if os.environ.get(FORCE) else host_isas()
    for isa in wanted:
        if isa.name in there:
            return there[isa.name]
    raise ArtifactError(
        "the artifact has no kernels for this CPU",
        where=str(artifact.path),
        got=", ".join(there) or "none",
        expected=" or ".join(isa.name for isa in wanted),
        next="compile it again here, or with --isa all for every CPU",
    )


def _ranges(count: int, *, one_by_one: bool) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(count)] if one_by_one else [(0, count)]


def _tensor_type(type_: object) -> TensorType:
    if not isinstance(type_, TensorType):
        raise ArtifactError("a slot holds no tensor", got=type_)
    return type_
