"""Runs a plan on an NVIDIA GPU: launches in order, or graphs of them, and a token for each row.

Whatever kernels use lies in memory that is taken once: weights, keys and values, one arena for the
slots of the largest step, a step's inputs. Only integers and parameters of sampling go to the
device, and only tokens come back, or the rows of a plan that embeds; a captured decode makes its
inputs of those before, computes and samples in one graph. PyTorch is imported where a step has no
kernel, or its kernel leaves its sizes to a library.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphopt.artifact import Artifact
from graphopt.errors import ArtifactError, UsageError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.shape import evaluate
from graphopt.ir.types import StateType, TensorType
from graphopt.ir.verify import verify
from graphopt.launch import LaunchKernel
from graphopt.loop_kernels import ADVANCE, FROM_HOST, SAMPLE, TAKE
from graphopt.plan import TRITON, Piece, Step
from graphopt.plan_arguments import Argument, Kind, arguments_of, layer_of
from graphopt.progress import ProgressFn, silent
from graphopt.region import make_region
from graphopt.safetensors_io import numpy_dtype

from ...capture_cost import is_captured, why_not_whole
from ...capture_plan import NOTHING_CAPTURED, CapturePlan
from ...dispatch import BatchShape, Mode
from ...executor import F32, I64, Sampled, SamplingInputs, StepInputs
from ...plan_check import check_plan
from ...scheduler import SchedulerLimits
from ...weight_check import check_weights
from ..padding import padded
from ..plan_numbers import PlanNumbers
from ..slots import as_f32
from .captures import Captures, Launches
from .decodes import DeviceDecodes
from .device import Device, Kernels
from .device import Graph as Captured
from .places import DevicePlaces, Places, Sizes
from .rows import DeviceRows
from .sampler import DeviceSampler
from .state import DeviceState
from .watchdog import AFTER, Started, Watchdog
from .weights import place_on, weights_read

if TYPE_CHECKING:
    from ..cpp import Observe
    from .pytorch import TorchOnDevice

# The graph of a whole step; others have the names of their pieces.
WHOLE = "the step"
# What comes after the pieces.
SAMPLING = "sampling"


@dataclass(frozen=True, slots=True)
class _Bound:
    """A step that is ready to run.

    Attributes:
        number: in the plan.
        step: what it is.
        kernel: how it is launched; None if PyTorch runs it.
        arguments: what its pointers point to.
        outputs: types of its results.
        may_leave: whether the kernel leaves some sizes to PyTorch.
    """

    number: int
    step: Step
    kernel: LaunchKernel | None
    arguments: tuple[Argument, ...]
    outputs: tuple[TensorType, ...]
    may_leave: bool

    def by_pytorch(self, sizes: Sizes) -> bool:
        """Whether PyTorch runs it at these sizes."""
        if self.kernel is None:
            return True
        return self.may_leave and self.kernel.variant(sizes).library


@dataclass(frozen=True, slots=True)
class _Draws:
    """What draws tokens, and makes the inputs of the next step of them.

    Attributes:
        sampler: from logits to tokens.
        between: the kernels ``take`` and ``advance``.
    """

    sampler: DeviceSampler
    between: Kernels

    @classmethod
    def on(cls, device: Device, artifact: Artifact, rows: int, moved: Callable[[], None]) -> _Draws:
        """Load them for steps of up to so many rows."""
        vocabulary = artifact.plan.limits.vocab_size
        kernel, read = artifact.launch(SAMPLE), artifact.cubin
        sampler = DeviceSampler(device, kernel, read, vocabulary, rows, moved)
        between = {name: artifact.launch(name) for name in (TAKE, ADVANCE)}
        return cls(sampler, device.kernels(between, read))


class CudaExecutor(PlanNumbers):
    """Runs an artifact for a GPU.

    Args:
        artifact: what to run.
        device: where; closed with this.
        limits: what a step may hold, which memory is taken for.
        captured: which steps are captured; none if left out.
        lazy_captures: whether each size is captured when a step needs it, not before all steps.
        watchdog_seconds: how long a step may take from when it is waited for; 0 for ever.
        unmarked_captures: whether captured decodes are left without marks that tell which piece of
            one hangs.
        report: told how far capturing is.

    Raises:
        ArtifactError: the plan does not fit its graph, or the kernels do not fit the device.
        MachineError: there is not enough memory.
        UsageError: steps are to be captured that are larger than the limits.
    """

    def __init__(
        self,
        artifact: Artifact,
        device: Device,
        limits: SchedulerLimits,
        captured: CapturePlan = NOTHING_CAPTURED,
        *,
        lazy_captures: bool = False,
        watchdog_seconds: float = 0.0,
        unmarked_captures: bool = False,
        report: ProgressFn = silent,
    ) -> None:
        plan = artifact.plan
        super().__init__(plan)
        foreign = plan.backends() - {TRITON, "torch"}
        if foreign:
            raise ArtifactError(
                "the plan has steps that do not run on a GPU", got=", ".join(sorted(foreign))
            )
        self._device = device
        self._lazy, self._report = lazy_captures, report
        device.attach()
        self._watchdog = Watchdog(device, watchdog_seconds, not unmarked_captures)
        self._graph = parse_graph(artifact.graph_text())
        verify(self._graph)
        check_plan(plan, self._graph)
        check_weights(artifact.weights, self._graph)
        self._output = _tensor_type(self._graph.outputs[0].type)
        self._bound = _bound(artifact, self._graph)
        self._said = {piece.name: _said(piece) for piece in plan.pieces}
        self._launches = {one.kernel.name: one.kernel for one in self._steps() if one.kernel}
        self._kernels = device.kernels(self._launches, artifact.cubin)
        self._weights = place_on(device, artifact.weights, *weights_read(plan, self._launches))
        most = limits.largest_step(plan.block_size)
        _check_captures(captured, most, embeds=plan.embedding is not None)
        self._kernels.reserve(most)
        self._places = DevicePlaces(device, plan, most)
        self._decodes = DeviceDecodes(device, self._places, plan.block_size)
        self._rows: DeviceRows | None = None
        self._draws: _Draws | None = None
        if plan.embedding is None:
            self._draws = _Draws.on(device, artifact, most["R"], self._drop_captures)
        else:
            self._rows = DeviceRows(device, self._output.dtype, plan.embedding.size)
        self._flights: deque[Callable[[], Sampled]] = deque()
        self._state: DeviceState | None = None
        self._torch: TorchOnDevice | None = None
        self._pointers: dict[int, dict[int, list[int]]] = {}
        self._latest: Captured | None = None
        simplify = self._watchdog.leave_captures_alone
        self.captures = Captures(device, captured, self._record, self.addresses, simplify)

    def allocate(self, num_blocks: int) -> None:
        """Take memory for ``num_blocks`` KV blocks.

        Raises:
            MachineError: there is not enough.
        """
        self._device.attach()
        self._forget_state()
        self._state = DeviceState(self._device, self._plan, num_blocks)
        if not self._lazy:
            self.captures.make_all(self._report)

    def run(self, inputs: StepInputs, sampling: SamplingInputs) -> Sampled:
        """Compute a step, and choose or score a token per row, or give the rows themselves."""
        return self._begin(inputs, sampling, None)()

    def start(self, inputs: StepInputs, sampling: SamplingInputs, sources: I64) -> None:
        """Let a step begin; see :class:`~graphopt.runtime.executor.OverlappingExecutor`."""
        self._flights.append(self._begin(inputs, sampling, sources))

    def finish(self) -> Sampled:
        """Wait for the step that was started first, and is not finished."""
        self._device.attach()
        return self._flights.popleft()()

    def _begin(
        self, inputs: StepInputs, sampling: SamplingInputs, sources: I64 | None
    ) -> Callable[[], Sampled]:
        """Give all of a step to the device; calling the answer waits for what comes of it."""
        self._device.attach()
        started = self._watchdog.begin(BatchShape.of(inputs))
        with self._watchdog.giving(started):
            if self._rows is not None:
                sizes = self._compute(inputs, sampling, None, started)
                answer = self._rows.start(self._logits_at(sizes), len(inputs.rows))
            else:
                self._sampler.reserve(sampling)
                sizes = self._compute(inputs, sampling, sources, started)
                if started.is_captured:
                    answer = self._sampler.fetch(sampling, sizes["R"])
                else:
                    self._watchdog.piece(started, SAMPLING)
                    answer = self._sampler.start(self._logits_at(sizes), sampling)
        return lambda: self._watchdog.land(started, answer)

    def logits(self, inputs: StepInputs, observe: Observe | None = None) -> F32:
        """Compute a step up to its output, f32[R, V]; for comparing numbers.

        Args:
            inputs: the step.
            observe: called with each of the plan's steps and its results; nothing is captured then.
        """
        self._device.attach()
        sizes: Sizes = BatchShape.of(inputs).sizes
        if observe is None:
            started = self._watchdog.begin(BatchShape.of(inputs))
            sizes = self._compute(inputs, SamplingInputs(len(inputs.rows)), None, started)
        else:
            self._write(inputs, None, sizes)
            self._observed(sizes, observe)
        sizes = {**sizes, "R": len(inputs.rows)}
        return as_f32(self._array(self._logits_at(sizes), self._output, sizes), self._output.dtype)

    def again(self, count: int) -> bool:
        """Run the last step so many times more and wait; False if it was no captured decode.

        This is for timing what the device does by itself: what lies in KV memory is spoiled.
        """
        if self._latest is None:
            return False
        self._decodes.forget()
        self._sampler.forget()
        for _ in range(count):
            self._device.replay(self._latest)
        self._device.synchronize()
        return True

    @property
    def copied_bytes(self) -> int:
        """Bytes that were copied to the device so far."""
        return self._device.copied_bytes

    def addresses(self) -> Mapping[str, int]:
        """Where everything is that a captured graph uses, by what it is."""
        state = self._state.places if self._state else {}
        return {
            **{f"weight {name}": place for name, place in self._weights.addresses.items()},
            **{f"{kind.value} of layer {number}": at for (kind, number), at in state.items()},
            "the arena of slots": self._places.arena,
            "a step's inputs": self._places.inputs,
            **self._kernels.workspaces(),
            **(self._sampler.addresses() if self._draws else {}),
        }

    def close(self) -> None:
        """Give all memory back, and the device."""
        self._state = None
        self._flights.clear()
        self._device.close()

    def _compute(
        self, inputs: StepInputs, sampling: SamplingInputs, sources: I64 | None, started: Started
    ) -> Sizes:
        """Run every step, of a captured decode sampling, too; the sizes that it ran at."""
        shape = started.shape
        self._places.check(shape.sizes)
        choice = self.captures.choose(shape)
        graphs = self.captures.graphs(choice)
        sizes = choice.sizes if graphs else shape.sizes
        if WHOLE in graphs:
            self._watchdog.replayed(started, sizes["S"])
            self._decode(graphs[WHOLE], inputs, sampling, sources, sizes)
            return sizes
        self._write(inputs, sources, sizes)
        for piece, steps in self._bound:
            self._watchdog.piece(started, self._said[piece.name])
            if piece.name in graphs:
                self._device.replay(graphs[piece.name])
            else:
                self._launch(steps, sizes)
        return sizes

    def _decode(
        self,
        graph: Captured,
        inputs: StepInputs,
        sampling: SamplingInputs,
        sources: I64 | None,
        sizes: Sizes,
    ) -> None:
        """Run a captured decode, which samples its tokens."""
        try:
            self._sampler.put(sampling, sizes["R"], advancing=True)
            self._decodes.put(inputs, sources, sizes)
            self._device.replay(graph)
            self._latest = graph
        except BaseException:  # what the device has is not known
            self._sampler.forget()
            self._decodes.forget()
            raise

    def _write(self, inputs: StepInputs, sources: I64 | None, sizes: Sizes) -> None:
        """Put a step's inputs on the device, with tokens that only the step before has."""
        self._places.check(sizes)
        self._decodes.forget()
        self._latest = None
        if sources is None or (sources == FROM_HOST).all():
            self._places.write(padded(inputs, sizes))
            return
        given = np.full(sizes["T"], FROM_HOST, np.int64)
        given[: len(sources)] = sources
        self._places.write(padded(inputs, sizes), given)
        places = self._places.at(sizes["T"]).inputs
        tokens = places["token_ids"]
        pointers = [self._sampler.results, places["sources"], tokens, tokens]
        self._drawing().between.launch(TAKE, pointers, {"T": len(sources)})

    @property
    def _sampler(self) -> DeviceSampler:
        return self._drawing().sampler

    def _drawing(self) -> _Draws:
        if self._draws is None:
            raise UsageError("a plan that embeds draws no tokens")
        return self._draws

    def _logits_at(self, sizes: Sizes) -> int:
        return self._places.at(sizes["T"]).slots[self._plan.output]

    def _record(self, mode: Mode, sizes: Mapping[str, int]) -> Iterator[tuple[str, Launches]]:
        """What is captured in a mode: the whole step, or each piece that can be.

        Raises:
            UsageError: PyTorch runs a step of what should be captured as a whole.
        """
        if mode is Mode.WHOLE:
            if why_not := why_not_whole(self._plan, self._launches, sizes):
                raise UsageError("a whole step cannot be captured", got=why_not)
            yield WHOLE, lambda: self._launch_decode(sizes)
            return
        for piece, steps in self._bound:
            if is_captured(piece, self._launches, sizes["T"]):
                yield piece.name, lambda steps=steps: self._launch(steps, sizes)  # type: ignore[misc]

    def _launch_decode(self, sizes: Sizes) -> None:
        """A decode from the tokens of the step before to its own."""
        begins = self._watchdog.capturing(sizes["S"])
        counters = self._sampler.counters(sizes["R"])
        pointers = self._decodes.pointers(sizes, self._sampler.results, counters)
        begins("making the inputs")
        self._drawing().between.launch(ADVANCE, pointers, sizes)
        for piece, steps in self._bound:
            begins(self._said[piece.name])
            self._launch(steps, sizes)
        begins(SAMPLING)
        self._sampler.launch(self._logits_at(sizes), sizes["R"])
        begins(AFTER)

    def _launch(self, steps: Sequence[_Bound], sizes: Sizes) -> None:
        places = self._places.at(sizes["T"])
        pointers = self._pointers_at(places)
        for one in steps:
            if one.kernel is None or one.by_pytorch(sizes):
                self._by_pytorch().run(one.number, one.step, places, self._kv(), sizes)
            else:
                self._kernels.launch(one.kernel.name, pointers[one.number], sizes)

    def _observed(self, sizes: Sizes, observe: Observe) -> None:
        """Run every step and tell what it made."""
        places = self._places.at(sizes["T"])
        for one in self._steps():
            self._launch((one,), sizes)
            results = zip(one.step.results, one.outputs, strict=True)
            made = [self._array(places.slots[slot], type_, sizes) for slot, type_ in results]
            observe(one.step, made)

    def _array(self, address: int, type_: TensorType, sizes: Sizes) -> npt.NDArray[Any]:
        """A copy of a tensor of the device; bf16 as integers."""
        shape = tuple(evaluate(dim, sizes) for dim in type_.shape)
        count = int(np.prod(shape, dtype=np.int64))
        found = self._device.read(address, count * type_.dtype.nbytes)
        return found.view(numpy_dtype(type_.dtype)).reshape(shape)

    def _pointers_at(self, places: Places) -> dict[int, list[int]]:
        """Each step's pointers in a step of so many tokens."""
        found = self._pointers.get(places.tokens)
        if found is None:
            found = self._pointers[places.tokens] = {
                one.number: [self._address(argument, places) for argument in one.arguments]
                for one in self._steps()
                if one.kernel is not None
            }
        return found

    def _address(self, argument: Argument, places: Places) -> int:
        if argument.kind is Kind.WEIGHT:
            return self._weights.addresses[argument.name]
        if argument.kind is Kind.SLOT:
            return places.slots[argument.number]
        return self._kv().places[argument.kind, argument.number]

    def _kv(self) -> DeviceState:
        if self._state is None:
            raise UsageError("there is no KV memory", next="call allocate first")
        return self._state

    def _by_pytorch(self) -> TorchOnDevice:
        if self._torch is None:
            from .pytorch import TorchOnDevice

            plain = self._weights.plain
            self._torch = TorchOnDevice(self._device, self._plan, self._graph, plain)
        return self._torch

    def _forget_state(self) -> None:
        """Give KV memory back, and all that knows where it is."""
        self._drop_captures()
        self._decodes.forget()
        self._pointers.clear()
        if self._state is not None:
            self._state.close()
        self._state = None

    def _drop_captures(self) -> None:
        self._latest = None
        self.captures.drop()

    def _steps(self) -> Iterator[_Bound]:
        for _, steps in self._bound:
            yield from steps


def _check_captures(captured: CapturePlan, most: Sizes, *, embeds: bool) -> None:
    """Demand that no captured step is larger than the largest, and no decode of a plan that embeds.

    Raises:
        UsageError: one is; its graph would use memory that is not there.
    """
    if embeds and captured.decode_sizes:
        raise UsageError("a plan that embeds has no decodes to capture", got=captured.decode_sizes)
    for what, sizes, limit in (
        ("decodes", captured.decode_sizes, min(most["S"], most["R"])),
        ("tokens", captured.piece_sizes, most["T"]),
        ("blocks in a table", (captured.block_columns,), most["P"]),
    ):
        if max(sizes, default=0) > limit:
            raise UsageError(
                "a step is to be captured that is larger than steps may be",
                got=f"{max(sizes)} {what}",
                expected=f"at most {limit}",
                next="raise max_num_seqs, max_num_batched_tokens or max_model_len",
            )


def _bound(artifact: Artifact, graph: Graph) -> tuple[tuple[Piece, tuple[_Bound, ...]], ...]:
    """The steps of each piece with their kernels."""
    kernels: dict[str, LaunchKernel] = {}
    found: list[tuple[Piece, tuple[_Bound, ...]]] = []
    number = 0
    for piece in artifact.plan.pieces:
        steps = []
        for step in piece.steps:
            kernel = None
            if step.backend == TRITON:
                if step.kernel not in kernels:
                    kernels[step.kernel] = artifact.launch(step.kernel)
                kernel = kernels[step.kernel]
            outputs = [one.type for one in make_region(graph, step.nodes).outputs]
            types = tuple(_tensor_type(one) for one in outputs if not isinstance(one, StateType))
            arguments = arguments_of(step, layer_of(graph, step)) if kernel else ()
            may_leave = kernel is not None and any(one.library for one in kernel.variants)
            steps.append(_Bound(number, step, kernel, arguments, types, may_leave))
            number += 1
        found.append((piece, tuple(steps)))
    return tuple(found)


def _said(piece: Piece) -> str:
    """A piece's name, and its first step and its last."""
    ends = piece.steps[:1] if len(piece.steps) == 1 else (piece.steps[0], piece.steps[-1])
    names = (f"{one.name or one.kernel} of {one.scope or 'the model'}" for one in ends)
    return f"{piece.name} ({' to '.join(names)})"


def _tensor_type(type_: object) -> TensorType:
    if not isinstance(type_, TensorType):
        raise ArtifactError("a slot holds no tensor", got=type_)
    return type_
