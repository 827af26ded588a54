"""Compare what a plan computes with what it should compute, step by step.

The plan runs one prefill step and one mixed step on shuffled blocks; where tokens see what comes
after them, every text in one step. Beside it run the interpreter
on the compiled graph in float32, for each step, and on the traced graph in float32, for the
logits, so that a pass that changed the meaning shows; the weights that the traced graph wants are
told from the packed ones. The same two in the plan's own element type
give the tolerance: a plan may be off by twice what rounding alone does, and never needs to be
better than the floor of its type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from graphopt.artifact import Artifact
from graphopt.errors import ArtifactError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.parser import parse_graph
from graphopt.ir.recover import recover
from graphopt.ir.reference import PagedState
from graphopt.ir.tolerance import allowed
from graphopt.ir.types import StateType, TensorType
from graphopt.ir.widen import widen
from graphopt.plan import CPP, Plan, Step
from graphopt.progress import ProgressFn, silent
from graphopt.region import make_region

from .. import gpu_setup
from ..executor import StepInputs
from ..scheduler import SchedulerLimits
from .cpp import CppExecutor
from .gpu.executor import CudaExecutor
from .slots import as_f32
from .torch import TorchExecutor, weight_tensor

Logits = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
# Logits of a whole sequence, f32[n, V], or rows that embed, f32[n, H]: computed in float32, and in
# the plan's element type.
Reference = Callable[[Sequence[int]], tuple[Logits, Logits]]

# What multiplies, looks up or chooses among rounded weights.
_ROUNDED = ("quantized_linear", "quantized_embed", "quantized_experts", "fp8_linear")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: its relative error, what rounding alone does there, and what is allowed."""

    name: str
    scope: str
    error: float
    rounding: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the error is within the tolerance; NaN never is."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification found.

    Attributes:
        dtype: the plan's element type.
        tokens: how many tokens ran.
        steps: one row for each step of the plan, in the second of the two runs.
        logits: the plan's logits, or rows, against the interpreter on the traced graph.
        reference: the same against transformers, if it was asked.
    """

    dtype: str
    tokens: int
    steps: tuple[Row, ...]
    logits: Row
    reference: Row | None

    @property
    def agrees(self) -> bool:
        """Whether every row agrees."""
        rows = [*self.steps, self.logits, *([self.reference] if self.reference else [])]
        return all(row.agrees for row in rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "agrees": self.agrees,
            "dtype": self.dtype,
            "tokens": self.tokens,
            "steps": [asdict(row) | {"agrees": row.agrees} for row in self.steps],
            "logits": asdict(self.logits) | {"agrees": self.logits.agrees},
            "reference": self.reference
            and asdict(self.reference) | {"agrees": self.reference.agrees},
        }


def relative_error(found: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """Norm of the difference over the norm of what is expected, in float64; NaN stays NaN.

    Infinities that stand at the same places are no difference.
    """
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    same = np.isinf(b) & (a == b)
    a, b = np.where(same, 0.0, a), np.where(same, 0.0, b)
    difference, size = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    if size == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / size


def token_error(found: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """The relative error that three quarters of the rows do not exceed; NaN counts as more.

    For models that route tokens to experts: rounding may send a token elsewhere, which changes that
    token altogether and no other.
    """
    rows = zip(np.asarray(found), np.asarray(expected), strict=True)
    errors = np.array([relative_error(a, b) for a, b in rows] or [0.0])
    errors[np.isnan(errors)] = np.inf
    return float(np.quantile(errors, 0.75, method="inverted_cdf"))


def verify_plan(
    artifact: Artifact,
    token_ids: Sequence[int],
    *,
    reference: Reference | None = None,
    threads: int | None = None,
    progress: ProgressFn = silent,
) -> VerifyReport:
    """Run the plan and its references on ``token_ids``.

    Args:
        artifact: what to verify; its steps must be ones that run here.
        token_ids: at least 4 tokens of the model's vocabulary, split over three sequences.
        reference: transformers on the same weights.
        threads: how many run compiled kernels; None for one per physical core.
        progress: told what is running.

    Raises:
        UsageError: too few tokens, or one that is not in the vocabulary.
    """
    scenario = Scenario.make(token_ids, artifact)
    compiled = parse_graph(artifact.graph_text())
    traced = parse_graph(artifact.stage_text("traced"))
    quantized = _is_rounded(compiled, artifact.plan)
    if quantized and reference is not None:
        raise UsageError(
            "a model of rounded weights is another one than the checkpoint",
            got="an artifact whose weights, or keys and values, are rounded, and a reference",
            next="leave the reference out: each step is compared with the rounded graph",
        )
    watched = _watched(artifact.plan, compiled)
    progress("running the plan", 0, 0)
    found = _run_plan(artifact, scenario, watched, threads)
    kept = frozenset(value.name for value in watched.values())
    progress("running the interpreter in float32", 0, 0)
    expected = _interpret(artifact, widen(compiled), scenario, kept=kept)
    progress(f"running the interpreter in {artifact.plan.dtype.torch_name}", 0, 0)
    rounded = _interpret(artifact, compiled, scenario, kept=kept)
    meant, own = expected.logits, rounded.logits
    if not quantized and (originals := _originals(artifact, traced, reference is not None)):
        meant = _interpret(artifact, widen(traced), scenario, weights=originals).logits
        # Not the compiled graph's: a pass that changed the meaning must not widen its tolerance.
        own = _interpret(artifact, traced, scenario, weights=originals).logits
    routed = artifact.plan.dtype.nbytes < 4 and bool(compiled.nodes_named("moe_experts"))
    # A number that is rounded to 8 bits may be rounded the other way for the least difference.
    precision = DType.BF16 if quantized else artifact.plan.dtype
    row = partial(_row, precision, token_error if routed else relative_error)
    steps = []
    for step, value in watched.items():
        values = (one.values[value.name] for one in (found, expected, rounded))
        steps.append(row(step.name, step.scope, *values))
    output = "rows" if artifact.plan.embedding else "logits"
    logits = row(output, "", found.logits, meant, own)
    against = None
    if reference is not None:
        progress("running transformers", 0, 0)
        got = scenario.by_sequence(found.logits)
        against = row("transformers", "", got, *_ask(reference, scenario, got.shape[1]))
    name = artifact.plan.dtype.torch_name
    return VerifyReport(name, len(token_ids), tuple(steps), logits, against)


def _is_rounded(graph: Graph, plan: Plan) -> bool:
    """Whether weights, or keys and values, have fewer bits than the checkpoint gave them."""
    is_narrow = any(layer.dtype.nbytes < plan.dtype.nbytes for layer in plan.state.layers)
    return is_narrow or any(node.op in _ROUNDED for node in graph.nodes)


def _row(
    dtype: DType,
    error: Callable[[npt.ArrayLike, npt.ArrayLike], float],
    name: str,
    scope: str,
    got: npt.ArrayLike,
    want: npt.ArrayLike,
    own: npt.ArrayLike,
) -> Row:
    """``got`` against ``want``, where ``own`` is what rounding alone makes of it."""
    rounding = error(own, want)
    return Row(name, scope, error(got, want), rounding, allowed(dtype, rounding))


def _ask(reference: Reference, scenario: Scenario, vocabulary: int) -> tuple[Logits, Logits]:
    """The reference's logits of all sequences, in float32 and in the plan's element type.

    Raises:
        UsageError: it is of another model.
    """
    exact, rough = zip(*(reference(ids) for ids in scenario.sequences), strict=True)
    if exact[0].shape[1] != vocabulary:
        raise UsageError(
            "the reference gives logits of another size",
            got=exact[0].shape[1],
            expected=vocabulary,
            next="give the checkpoint that the artifact was compiled from",
        )
    return np.concatenate(exact), np.concatenate(rough)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Two steps over three sequences: two prompts, then a third prompt beside a decode of each.

    Of a plan that computes texts in one step, two texts, then the third.

    Attributes:
        sequences: the tokens of each sequence.
        steps: the inputs of each step; every token's row is asked for.
        owners: for each row in running order, its sequence and its position.
        num_blocks: KV blocks that the tables use.
    """

    sequences: tuple[tuple[int, ...], ...]
    steps: tuple[StepInputs, ...]
    owners: tuple[tuple[int, int], ...]
    num_blocks: int

    @classmethod
    def make(cls, token_ids: Sequence[int], artifact: Artifact) -> Scenario:
        """The scenario for ``token_ids``; blocks are handed out in a shuffled order.

        Raises:
            UsageError: too few tokens, or one that is not in the vocabulary.
        """
        limits, size = artifact.plan.limits, artifact.plan.block_size
        if len(token_ids) < 4:
            raise UsageError(
                "verification needs at least 4 tokens",
                got=len(token_ids),
                next="give a longer text, or leave it out for the built-in one",
            )
        if not all(0 <= token < limits.vocab_size for token in token_ids):
            raise UsageError(
                "a token is not in the vocabulary", expected=f"below {limits.vocab_size}"
            )
        most = limits.max_model_len
        first, second = len(token_ids) // 2, 3 * len(token_ids) // 4
        parts = (token_ids[:first], token_ids[first:second], token_ids[second:])
        sequences = tuple(tuple(part[:most]) for part in parts)
        counts = [-(-len(ids) // size) for ids in sequences]
        blocks = np.random.default_rng(0).permutation(sum(counts)).tolist()
        tables = [[blocks.pop() for _ in range(count)] for count in counts]
        embedding = artifact.plan.embedding
        kept = 0 if embedding is not None and embedding.whole else 1
        spans = [(s, 0, len(sequences[s]) - kept) for s in (0, 1)]
        mixed = [
            (2, 0, len(sequences[2])),
            *((s, len(sequences[s]) - kept, len(sequences[s])) for s in (0, 1)),
        ]
        steps = [[span for span in step if span[1] < span[2]] for step in (spans, mixed)]
        steps = [step for step in steps if step]
        owners = [(s, p) for step in steps for s, start, stop in step for p in range(start, stop)]
        inputs = tuple(
            _inputs(step, sequences, tables, size, sees_ahead=not kept) for step in steps
        )
        return cls(sequences, inputs, tuple(owners), sum(counts))

    def by_sequence(self, logits: Logits) -> Logits:
        """Rows of ``logits`` sorted by sequence and position."""
        order = sorted(range(len(self.owners)), key=lambda row: self.owners[row])
        return logits[order]


def _inputs(
    spans: Sequence[tuple[int, int, int]],
    sequences: Sequence[Sequence[int]],
    tables: Sequence[Sequence[int]],
    block_size: int,
    *,
    sees_ahead: bool,
) -> StepInputs:
    """Inputs of a step that computes, for each (sequence, start, stop), those tokens."""
    tokens = [(s, p) for s, start, stop in spans for p in range(start, stop)]
    width = max(len(tables[s]) for s, _, _ in spans)
    rows = np.array([[*tables[s], *[0] * (width - len(tables[s]))] for s, _, _ in spans], np.int32)
    slots = [tables[s][p // block_size] * block_size + p % block_size for s, p in tokens]
    counts = [stop - start for _, start, stop in spans]
    reaches = np.repeat([stop for _, _, stop in spans], counts).astype(np.int32)
    return StepInputs(
        token_ids=np.array([sequences[s][p] for s, p in tokens], np.int64),
        positions=np.array([p for _, p in tokens], np.int64),
        rows=np.arange(len(tokens), dtype=np.int64),
        slots=np.array(slots, np.int64),
        starts=np.array([0, *np.cumsum(counts)], np.int32),
        lengths=np.array([stop for _, _, stop in spans], np.int32),
        tables=rows,
        reaches=reaches if sees_ahead else None,
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Logits of all runs one after the other, and values by name, of the last run."""

    logits: Logits
    values: Mapping[str, Doubles]


def _watched(plan: Plan, graph: Graph) -> dict[Step, Value]:
    """For each step the last value it makes that has floating-point numbers."""
    found = {}
    for step in plan.steps():
        for value in make_region(graph, step.nodes).outputs:
            if isinstance(value.type, TensorType) and value.type.dtype.is_float:
                found[step] = value
    return found


def _originals(
    artifact: Artifact, traced: Graph, has_reference: bool
) -> dict[str, torch.Tensor] | None:
    """The weights of the traced graph, those that were folded told from what they became.

    None if one cannot be told, and there is a reference to compare with instead.

    Raises:
        ArtifactError: one cannot be told, and there is none.
    """
    constants = parse_graph(artifact.stage_text("constants"))
    folded = {value: _weight(artifact, value) for value in constants.outputs}
    told = recover(constants, folded)
    kept = {value.name: value for value in traced.weights if value.name not in told}
    if lost := sorted(kept.keys() - artifact.weights.names()):
        if has_reference:
            return None
        raise ArtifactError(
            "a weight of the traced graph cannot be told from what it was folded into",
            where=lost[0],
            next="give the checkpoint as --reference",
        )
    return {**told, **{name: _weight(artifact, value) for name, value in kept.items()}}


def _weight(artifact: Artifact, value: Value) -> torch.Tensor:
    """A weight in its own shape: what is packed knows no batch of one, such as a single expert."""
    tensor = weight_tensor(artifact, value.name)
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    return tensor[None] if shape == (1, *tensor.shape) else tensor


def _run_plan(
    artifact: Artifact, scenario: Scenario, watched: Mapping[Step, Value], threads: int | None
) -> _Outcome:
    values: dict[str, Doubles] = {}
    graph = parse_graph(artifact.graph_text())
    places = {
        step: [v.name for v in make_region(graph, step.nodes).outputs if _is_tensor(v)].index(
            value.name
        )
        for step, value in watched.items()
    }

    def observe(step: Step, results: Sequence[Any]) -> None:
        if step in places:
            made, value = results[places[step]], watched[step]
            if isinstance(made, np.ndarray) and isinstance(value.type, TensorType):
                values[value.name] = as_f32(made, value.type.dtype).astype(np.float64)
            else:
                values[value.name] = _double(made)

    executor = _executor_for(artifact, scenario, threads)
    try:
        executor.allocate(scenario.num_blocks)
        logits = [executor.logits(inputs, observe) for inputs in scenario.steps]
    finally:
        executor.close()
    return _Outcome(np.concatenate(logits), values)


def _executor_for(
    artifact: Artifact, scenario: Scenario, threads: int | None
) -> CppExecutor | CudaExecutor | TorchExecutor:
    """What runs the plan here; on a GPU it takes memory for the scenario's steps alone."""
    plan = artifact.plan
    if gpu_setup.is_for_gpu(plan):
        tokens = max(len(inputs.token_ids) for inputs in scenario.steps)
        sequences = len(scenario.sequences)
        limits = SchedulerLimits(sequences, tokens, tokens, plan.limits.max_model_len)
        device = gpu_setup.this_gpu(plan)
        try:
            return CudaExecutor(artifact, device, limits)
        except BaseException:
            device.close()
            raise
    native = CPP in plan.backends()
    return CppExecutor(artifact, threads=threads) if native else TorchExecutor(artifact)


def _interpret(
    artifact: Artifact,
    graph: Graph,
    scenario: Scenario,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
    kept: frozenset[str] = frozenset(),
) -> _Outcome:
    """Run ``graph`` on the scenario, from KV memory full of NaN.

    Args:
        artifact: whose weights, if ``weights`` is None.
        graph: what to run.
        scenario: on what.
        weights: the tensors by name.
        kept: names of values to keep.
    """
    state = next(value for value in graph.inputs if isinstance(value.type, StateType))
    if not isinstance(state.type, StateType):
        raise ArtifactError("the graph has no state", where=artifact.plan.name)
    memory = PagedState.allocate(
        state.type, scenario.num_blocks, artifact.plan.block_size, fill=float("nan")
    )
    values: dict[str, Doubles] = {}

    def observe(node: Node, outputs: Sequence[Any]) -> None:
        for value, made in zip(node.outputs, outputs, strict=True):
            if value.name in kept:
                values[value.name] = _double(made)

    if weights is None:
        weights = {value.name: _weight(artifact, value) for value in graph.weights}
    interpreter = Interpreter(graph, weights)
    logits = []
    for inputs in scenario.steps:
        named = {v.name: getattr(inputs, v.name) for v in graph.inputs if v is not state}
        (out,) = interpreter.run({**named, state.name: memory}, observe=observe)
        logits.append(out.to(torch.float32).numpy())
    return _Outcome(np.concatenate(logits), values)


def _is_tensor(value: Value) -> bool:
    return isinstance(value.type, TensorType)


def _double(tensor: torch.Tensor) -> Doubles:
    found: Doubles = tensor.to(torch.float64).numpy()
    return found
