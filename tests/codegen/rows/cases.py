"""Regions against the interpreter, whatever computes them: operands, and what is expected.

Each target's own half of the tests makes the kernels and runs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.ops_spec import int_of
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ir.widen import widen
from graphopt.region import Region, make_region

BLOCK, BLOCKS = 5, 8
TOLERANCE = {DType.F32: 2e-6, DType.BF16: 1e-2, DType.F16: 2e-3}
_FEW = 200  # what integers are below where nothing says more: positions in a table, mostly


def region_graph(graph: Graph, region: Region) -> Graph:
    """The nodes of a region as a graph, with the region's operands and results."""
    return Graph(
        "region",
        tuple(value for value in region.inputs if not value.is_weight),
        tuple(value for value in region.inputs if value.is_weight),
        tuple(graph.nodes[place] for place in region.nodes),
        region.outputs,
    )


def whole(graph: Graph, family: str = "row") -> Region:
    """All of a graph as one region."""
    return make_region(graph, range(len(graph.nodes)), family=family)


def operation(op: str, operands: Sequence[TensorType], **attrs: Attr) -> Graph:
    """A graph of one node; operands are inputs, those without a symbol weights."""
    return chain(operands, lambda builder, given: builder.node(op, given, attrs))


def chain(
    operands: Sequence[TensorType],
    make: Callable[[GraphBuilder, list[Value]], Sequence[Value]],
) -> Graph:
    """A graph that ``make`` builds on values of the given types; those without rows are weights."""
    builder = GraphBuilder("case")
    given = [
        builder.input(f"x{i}", type_)
        if any(not isinstance(size, int) for size in type_.shape)
        else builder.weight(f"w{i}.weight", type_)
        for i, type_ in enumerate(operands)
    ]
    return builder.finish(make(builder, given))


def operands_of(
    graph: Graph, env: Mapping[str, int], generator: torch.Generator
) -> dict[str, object]:
    """Random numbers for all operands of a graph, by name; states are empty."""
    given: dict[str, object] = {}
    for value in (*graph.inputs, *graph.weights):
        if isinstance(value.type, StateType):
            given[value.name] = PagedState.allocate(value.type, BLOCKS, BLOCK)
            continue
        shape = [evaluate(size, env) for size in value.type.shape]
        given[value.name] = _numbers(graph, value, shape, env, generator)
    return given


def _numbers(
    graph: Graph,
    value: Value,
    shape: list[int],
    env: Mapping[str, int],
    generator: torch.Generator,
) -> torch.Tensor:
    assert isinstance(value.type, TensorType)
    dtype = torch_dtype(value.type.dtype)
    if value.type.dtype.is_float:
        return torch.randn(shape, generator=generator).to(dtype)
    if value.type.dtype is DType.BOOL:
        return torch.rand(shape, generator=generator) < 0.5
    if any(node.op.endswith("_write") for node in graph.users.get(value, ())):
        slots = torch.randperm(BLOCK * BLOCKS, generator=generator)[: math.prod(shape)]
        return torch.where(torch.rand(len(slots), generator=generator) < 0.2, -1, slots)
    if value.is_weight and value.type.dtype is DType.I8:  # of four bits at most
        return torch.randint(-8, 8, shape, generator=generator, dtype=dtype)
    below = _bound(graph, value, env)
    return torch.randint(0, below, shape, generator=generator).to(dtype)


def _bound(graph: Graph, value: Value, env: Mapping[str, int]) -> int:
    """What an index may be, through the views of it."""
    found = _FEW if value.type.dtype.nbytes > 1 else 100  # type: ignore[union-attr]
    for node in graph.users.get(value, ()):
        if node.op in ("embed", "quantized_embed"):
            found = min(found, _size(node, 1, 0, env))
        elif node.op in ("index_select", "gather") and node.inputs[1] is value:
            found = min(found, _size(node, 0, int_of(node.attrs, "dim"), env))
        elif node.op == "one_hot":
            found = min(found, int_of(node.attrs, "classes"))
        elif node.op in ("reshape", "expand", "permute"):
            found = min(found, _bound(graph, node.output, env))
    return found


def _size(node: Node, position: int, dim: int, env: Mapping[str, int]) -> int:
    type_ = node.inputs[position].type
    assert isinstance(type_, TensorType)
    return evaluate(type_.shape[dim], env)


def _wide(given: object) -> object:
    if isinstance(given, PagedState):
        return given.clone().to(torch.float32)
    assert isinstance(given, torch.Tensor)
    return given.float() if given.is_floating_point() else given


def expected_of(
    graph: Graph, given: Mapping[str, object]
) -> tuple[dict[Value, torch.Tensor], PagedState | None]:
    """What the interpreter computes in float32: results, and the state that is written."""
    wide = widen(graph)
    weights = {v.name: _wide(given[v.name]) for v in graph.weights}
    inputs = {v.name: _wide(given[v.name]) for v in graph.inputs}
    results = Interpreter(wide, weights).run(inputs)  # type: ignore[arg-type]
    pairs = list(zip(graph.outputs, results, strict=True))
    tensors = {value: result for value, result in pairs if isinstance(result, torch.Tensor)}
    states = [state for state in inputs.values() if isinstance(state, PagedState)]
    return tensors, states[0] if states else None


def close(got: torch.Tensor, want: torch.Tensor, tolerance: float, where: str) -> None:
    """Infinities and NaNs alike, the rest within a relative error."""
    torch.testing.assert_close(torch.isnan(got), torch.isnan(want), msg=where)
    finite = torch.isfinite(want)
    assert torch.equal(got[~finite].nan_to_num(0.5), want[~finite].nan_to_num(0.5)), where
    scale = want[finite].norm()
    error = (got[finite] - want[finite]).norm()
    assert error <= tolerance * scale + 1e-30, f"{error / scale} in {where}"


def layer_of(graph: Graph, type_: StateType) -> LayerState:
    """The layer of a state that the only node which has one reads or writes."""
    (number,) = {int_of(n.attrs, "layer") for n in graph.nodes if "layer" in n.attrs}
    return type_.layers[number]
