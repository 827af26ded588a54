"""Runs a plan step by step through PyTorch: the executor of last resort, and the readable one.

Slots are registers: each holds the value that a step put there until a later step frees it. State
is paged memory, updated in place. Sampling is the numpy reference on the step's logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.artifact import Artifact, ArtifactFolder
from graphopt.errors import ArtifactError, GraphoptError, MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.parser import parse_graph
from graphopt.ir.reference import PagedState, prepare, torch_dtype
from graphopt.ir.types import StateType
from graphopt.ir.verify import verify
from graphopt.plan import Operand, Step
from graphopt.region import make_region

from ..executor import F32, Sampled, SamplingInputs, StepInputs, embedded
from ..plan_check import check_plan
from ..sampler import sample
from .plan_numbers import PlanNumbers

# Below both, a step runs on one thread. A second one saves a tenth of the time on an idle machine,
# and costs most of it where another process wants its core, since the two wait for each other some
# 300 times a step (5M parameters, 2 cores, one thread and two: 226 and 252 tokens/s alone, 50 and
# 18 beside one busy process).
SMALL_WEIGHT_BYTES = 64 << 20
SMALL_STEP_FLOPS = 1_000_000_000

Registers = list[Any]
# Told what a step of the plan made.
Observe = Callable[[Step, Sequence[Any]], None]
# Reads an operand: a register, a weight, or the state.
_Read = Callable[[Registers], Any]


@dataclass(frozen=True, slots=True)
class _Call:
    """A step that is ready to run: reads operands, gives results, in the kernel's order."""

    step: Step
    reads: tuple[_Read, ...]
    run: Callable[[list[Any], dict[str, int]], list[Any]]


class TorchExecutor(PlanNumbers):
    """Runs the ``torch`` steps of an artifact on the CPU.

    Args:
        artifact: what to run; its weights stay mapped and are not copied.

    Raises:
        ArtifactError: the plan does not fit its graph, or has steps of another backend.
    """

    def __init__(self, artifact: Artifact) -> None:
        plan = artifact.plan
        foreign = plan.backends() - {"torch"}
        if foreign:
            raise ArtifactError(
                "the plan has steps that PyTorch cannot run", got=", ".join(sorted(foreign))
            )
        super().__init__(plan)
        self._state: PagedState | None = None
        graph = parse_graph(artifact.graph_text())
        verify(graph)
        check_plan(plan, graph)
        weights = {value.name: _weight(artifact, value) for value in graph.weights}
        self._calls = tuple(self._prepare(graph, weights, step) for step in plan.steps())
        self._weight_elements = sum(tensor.numel() for tensor in weights.values())
        self._small = sum(tensor.nbytes for tensor in weights.values()) < SMALL_WEIGHT_BYTES

    def allocate(self, num_blocks: int) -> None:
        """Take memory for ``num_blocks`` KV blocks.

        It is not cleared: nothing reads a slot before it was written, and pages that are never
        touched cost nothing.

        Raises:
            MachineError: there is not enough.
        """
        self._state = None
        plan = self._plan
        try:
            self._state = PagedState.allocate(plan.state, num_blocks, plan.block_size, fill=None)
        except RuntimeError as error:
            raise MachineError(
                "KV memory could not be allocated",
                got=f"{num_blocks} blocks of {plan.bytes_per_block} bytes",
                next="lower kv_cache_memory",
            ) from error

    def run(self, inputs: StepInputs, sampling: SamplingInputs) -> Sampled:
        """Compute a step, and choose or score a token per row, or give the rows themselves.

        Raises:
            GraphoptError: a step of the plan failed; it is named.
        """
        rows = self.logits(inputs)
        return sample(rows, sampling) if self.embedding is None else embedded(rows)

    def logits(self, inputs: StepInputs, observe: Observe | None = None) -> F32:
        """Compute a step up to its output, f32[R, V]; for ``run``, and for comparing numbers.

        Args:
            inputs: the step.
            observe: called with each of the plan's steps and its results.
        """
        registers: Registers = [None] * len(self._plan.slots)
        for name, slot in self._plan.inputs.items():
            registers[slot] = torch.from_numpy(getattr(inputs, name))
        sizes = {
            "T": len(inputs.token_ids),
            "R": len(inputs.rows),
            "S": len(inputs.lengths),
            "P": inputs.tables.shape[1],
        }
        with torch.inference_mode(), self._threads(sizes["T"]):
            for call in self._calls:
                results = self._execute(call, registers, sizes)
                if observe is not None:
                    observe(call.step, results)
            found: torch.Tensor = registers[self._plan.output]
            return found.to(torch.float32).contiguous().numpy()

    @contextmanager
    def _threads(self, tokens: int) -> Iterator[None]:
        """Within it, PyTorch uses one thread if the step is small."""
        before = torch.get_num_threads()
        if before == 1 or not self._small or 2 * tokens * self._weight_elements > SMALL_STEP_FLOPS:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """Give all memory back."""
        self._state = None
        self._calls = ()

    def _execute(self, call: _Call, registers: Registers, sizes: dict[str, int]) -> list[Any]:
        step = call.step
        try:
            results = call.run([read(registers) for read in call.reads], sizes)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise GraphoptError(
                f"step {step.kernel} failed",
                where=step.scope or self._plan.name,
                got=f"{type(error).__name__}: {error}",
                next="run `graphopt verify` on the artifact",
            ) from error
        for slot, value in zip(step.results, results, strict=True):
            registers[slot] = value
        for slot in step.frees:
            registers[slot] = None
        return results

    def _prepare(self, graph: Graph, weights: dict[str, torch.Tensor], step: Step) -> _Call:
        region = make_region(graph, step.nodes)
        outputs = [value for value in region.outputs if not isinstance(value.type, StateType)]
        nodes = [(graph.nodes[place], prepare(graph.nodes[place])) for place in step.nodes]

        def run(arguments: list[Any], sizes: dict[str, int]) -> list[Any]:
            values: dict[Value, Any] = dict(zip(region.inputs, arguments, strict=True))
            for node, compute in nodes:
                results = compute([values[value] for value in node.inputs], sizes)
                values.update(zip(node.outputs, results, strict=True))
            return [values[value] for value in outputs]

        reads = tuple(self._reader(weights, operand) for operand in step.operands)
        return _Call(step, reads, run)

    def _reader(self, weights: dict[str, torch.Tensor], operand: Operand) -> _Read:
        if isinstance(operand, int):
            slot = operand
            return lambda registers: registers[slot]
        if operand.startswith("@"):
            weight = weights[operand[1:]]
            return lambda registers: weight
        return lambda registers: self._state


def _weight(artifact: Artifact, value: Value) -> torch.Tensor:
    """The weight ``value`` of the graph, which must be stored in the graph's type."""
    tensor = weight_tensor(artifact, value.name)
    dtype = artifact.weights.dtype(value.name)
    stored = f"{dtype.value}[{', '.join(map(str, tensor.shape))}]"
    if stored != str(value.type):
        raise ArtifactError(
            f"weight {value.name} is not what the graph expects", got=stored, expected=value.type
        )
    return tensor


def weight_tensor(artifact: ArtifactFolder, name: str) -> torch.Tensor:
    """A weight as a tensor that shares the mapped file's memory."""
    dtype: DType = artifact.weights.dtype(name)
    view: Any = artifact.weights.view(name)
    return torch.from_numpy(view).view(torch_dtype(dtype))
