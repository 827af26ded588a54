"""Regions as row kernels in the interpreter, against the IR's: every variant, poisoned results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.codegen.triton.interpreter import run
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.rows import rows_kernel
from graphopt.ir.graph import Graph, Value
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import StateType, TensorType
from graphopt.ledger import Verdict
from graphopt.region import Region

from ..rows.cases import (
    BLOCK,
    BLOCKS,
    TOLERANCE,
    close,
    expected_of,
    layer_of,
    operands_of,
    region_graph,
    whole,
)

# Elements behind each result that nobody may touch, and what all of it holds before the run.
BEYOND = 64
POISON = 77


@dataclass(frozen=True, slots=True)
class TileCase:
    """A region as a graph of its own, and its kernel."""

    graph: Graph
    region: Region
    kernel: TritonKernel


def make_case(graph: Graph, region: Region) -> TileCase | Verdict:
    """The case of a region, or why it has no kernel."""
    kernel = rows_kernel(graph, region)
    if isinstance(kernel, Verdict):
        return kernel
    return TileCase(region_graph(graph, region), region, kernel)


def made(graph: Graph) -> TileCase:
    """The case of a whole graph that has a kernel."""
    case = make_case(graph, whole(graph))
    assert isinstance(case, TileCase), (case, graph.nodes)
    return case


def check(case: TileCase, *, tokens: int, seed: int) -> None:
    """Every variant's results are the interpreter's of the IR, computed in float32."""
    generator = torch.Generator().manual_seed(seed)
    env = {"T": tokens, "R": max(1, tokens - 1), "S": 1, "P": 1}
    given = operands_of(case.graph, env, generator)
    expected, written = expected_of(case.graph, given)
    for variant in case.kernel.variants:
        found = _interpreted(case, variant, given, env)
        for value, want in expected.items():
            _compare(case, value, found[value], want)
        if written is not None:
            _compare_state(case, written, found, given)


def check_all(graphs: Sequence[Graph], tokens: Sequence[int] = (1, 3, 17)) -> None:
    """``check`` of whole graphs with one row, a few and many."""
    for number, graph in enumerate(graphs):
        case = made(graph)
        for count in tokens:
            check(case, tokens=count, seed=1000 * count + number)


def _interpreted(
    case: TileCase, variant: Variant, given: Mapping[str, object], env: Mapping[str, int]
) -> dict[object, torch.Tensor]:
    pointers: list[torch.Tensor] = []
    found: dict[object, torch.Tensor] = {}
    for argument in arguments(case.graph, case.region):
        value = argument.value
        if isinstance(value.type, StateType):
            layer = layer_of(case.graph, value.type)
            width = layer.key_size if argument.kind is Kind.KEYS else layer.value_size
            size = BLOCKS * BLOCK * layer.heads * width
            pointers.append(_poisoned(size, torch_dtype(layer.dtype)))
            found[argument.kind] = pointers[-1]
        elif argument.kind is Kind.RESULT:
            size = math.prod(evaluate(one, env) for one in value.type.shape)
            pointers.append(_poisoned(size, torch_dtype(value.type.dtype)))
            found[value] = pointers[-1]
        else:
            operand = given[value.name]
            assert isinstance(operand, torch.Tensor)
            pointers.append(operand.contiguous().clone())
    run(case.kernel, variant, pointers, env)
    return found


def _poisoned(size: int, dtype: torch.dtype) -> torch.Tensor:
    filling = True if dtype is torch.bool else math.nan if dtype.is_floating_point else POISON
    return torch.full((size + BEYOND,), filling, dtype=dtype)


def _is_poison(tensor: torch.Tensor) -> bool:
    if tensor.is_floating_point():
        return bool(tensor.isnan().all())
    return bool((tensor == (True if tensor.dtype is torch.bool else POISON)).all())


def _compare(case: TileCase, value: Value, memory: torch.Tensor, want: torch.Tensor) -> None:
    assert isinstance(value.type, TensorType)
    where = f"{value} of\n{case.kernel.text}"
    assert _is_poison(memory[want.numel() :]), f"rows beyond the end: {where}"
    got = memory[: want.numel()].reshape(want.shape)
    if not value.type.dtype.is_float:
        assert torch.equal(got, want.to(got.dtype)), f"{got} != {want} of {where}"
        return
    close(got.float(), want, TOLERANCE[value.type.dtype], where)


def _compare_state(
    case: TileCase,
    written: PagedState,
    found: Mapping[object, torch.Tensor],
    given: Mapping[str, object],
) -> None:
    """What slots name is written, and nothing else."""
    (state,) = (v for v in case.graph.inputs if isinstance(v.type, StateType))
    assert isinstance(state.type, StateType)
    layer, where = layer_of(case.graph, state.type), f"state of\n{case.kernel.text}"
    nodes = [n for n in case.graph.nodes if n.op.endswith("_write")]
    pairs = [(Kind.KEYS, written.keys)]
    if not state.type.is_latent:
        pairs.append((Kind.VALUES, written.values))
    for node in nodes:
        slots = given[node.inputs[-1].name]
        number = node.attrs["layer"]
        assert isinstance(slots, torch.Tensor)
        assert isinstance(number, int)
        for kind, expected in pairs:
            want = expected[number].reshape(BLOCKS * BLOCK, -1)
            memory = found[kind]
            got = memory[: want.numel()].reshape(want.shape)
            assert _is_poison(memory[want.numel() :]), where
            close(got[slots[slots >= 0]].float(), want[slots[slots >= 0]], _of(layer.dtype), where)
            others = torch.ones(len(want), dtype=torch.bool)
            others[slots[slots >= 0]] = False
            assert _is_poison(got[others]), where


def _of(dtype: object) -> float:
    return next(number for one, number in TOLERANCE.items() if one is dtype)
