"""An operand is overwritten only by a region that reads each element no later than it writes it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.in_place import reads_where_it_writes
from graphopt.region import make_region

T = sym("T")
ROWS = TensorType(DType.F32, (T, 8))
SQUARE = TensorType(DType.F32, (8, 8))
Body = Callable[[GraphBuilder, Value, Value], Value]


def graph_of(body: Body, type_: TensorType) -> Graph:
    b = GraphBuilder("g")
    return b.finish([body(b, b.input("x", type_), b.input("other", type_))])


def decide(body: Body, family: str, type_: TensorType) -> bool:
    """Whether a region of all nodes that ``body`` makes may write its result over its first."""
    graph = graph_of(body, type_)
    region = make_region(graph, range(len(graph.nodes)), family=family)
    return reads_where_it_writes(graph, region, graph.inputs[0], graph.outputs[0])


def weight(b: GraphBuilder, *shape: int) -> Value:
    return b.weight(f"w{len(shape)}", TensorType(DType.F32, shape))


def residual(b: GraphBuilder, x: Value, other: Value) -> Value:
    return b.one("add", [x, b.one("linear", [other, weight(b, 8, 8)])])


def matrix_product(b: GraphBuilder, x: Value, other: Value) -> Value:
    return b.one("add", [other, b.one("linear", [x, weight(b, 8, 8)])])


def norm(b: GraphBuilder, x: Value, other: Value) -> Value:
    return b.one("rms_norm", [b.one("add", [x, other]), weight(b, 8)], {"eps": 1e-5})


def spelled_norm(b: GraphBuilder, x: Value, other: Value) -> Value:
    mean = b.one("mean", [b.one("mul", [x, x])], {"dims": (1,), "keepdim": True})
    return b.one("mul", [x, b.one("rsqrt", [b.one("add", [mean], {"scalar": 1e-6})])])


def turned(b: GraphBuilder, x: Value, other: Value) -> Value:
    return b.one("add", [x, b.one("permute", [x], {"dims": (1, 0)})])


def over_columns(b: GraphBuilder, x: Value, other: Value) -> Value:
    return b.one("sub", [x, b.one("mean", [x], {"dims": (0,), "keepdim": True})])


LEGAL: dict[str, tuple[Body, str, TensorType]] = {
    "pointwise": (lambda b, x, y: b.one("add", [b.one("silu", [x]), y]), "pointwise", ROWS),
    "a row broadcast over it": (
        lambda b, x, y: b.one("mul", [x, weight(b, 8)]),
        "pointwise",
        ROWS,
    ),
    "an epilogue's operand": (residual, "linear", ROWS),
    "a norm": (norm, "row", ROWS),
    "a norm in small steps": (spelled_norm, "row", ROWS),
    "softmax": (lambda b, x, y: b.one("softmax", [x], {"dim": 1}), "row", ROWS),
}
ILLEGAL: dict[str, tuple[Body, str, TensorType]] = {
    "a product's operand": (matrix_product, "linear", ROWS),
    "a view of it beside it": (turned, "pointwise", SQUARE),
    "a norm in a family without passes": (norm, "pointwise", ROWS),
    "a mean over columns": (over_columns, "row", SQUARE),
    "softmax over columns": (
        lambda b, x, y: b.one("softmax", [x], {"dim": 0}),
        "row",
        ROWS,
    ),
    "a running sum": (lambda b, x, y: b.one("cumsum", [x], {"dim": 1}), "row", ROWS),
    "an opaque region": (lambda b, x, y: b.one("add", [x, y]), "opaque", ROWS),
    "another element type": (
        lambda b, x, y: b.one("cast", [x], {"dtype": DType.BF16}),
        "pointwise",
        ROWS,
    ),
    "as many bytes in another type": (
        lambda b, x, y: b.one("cast", [x], {"dtype": DType.I32}),
        "pointwise",
        ROWS,
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_legal(name: str) -> None:
    body, family, type_ = LEGAL[name]
    assert decide(body, family, type_)


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal(name: str) -> None:
    body, family, type_ = ILLEGAL[name]
    assert not decide(body, family, type_)


def test_what_is_broadcast_is_read_after_it_was_overwritten() -> None:
    """One element of x makes eight of another result, so no order of the eight is safe."""
    b = GraphBuilder("g")
    x = b.one("exp", [b.input("x", TensorType(DType.F32, (1, 8)))])
    y = b.one("neg", [x])
    graph = b.finish([b.one("add", [b.one("add", [x, b.input("o", ROWS)]), y])])
    region = make_region(graph, [1, 2], family="pointwise")
    assert region.outputs == (y, graph.nodes[2].output)
    assert not reads_where_it_writes(graph, region, x, y)
    alone = make_region(graph, [1], family="pointwise")
    assert reads_where_it_writes(graph, alone, x, y)


def test_of_two_results_a_row_kernel_writes_one_too_early() -> None:
    b = GraphBuilder("g")
    x, r = b.input("x", ROWS), b.input("r", ROWS)
    total = b.one("add", [x, r])
    normed = b.one("rms_norm", [total], {"eps": 1e-5})
    graph = b.finish([b.one("add", [total, normed])])
    both = make_region(graph, [0, 1], family="row")
    assert both.outputs == (total, normed)
    assert not any(reads_where_it_writes(graph, both, x, y) for y in both.outputs)
    first = make_region(graph, [0], family="row")
    assert reads_where_it_writes(graph, first, x, total)


def overwritten(graph: Graph, family: str) -> tuple[Tensor, Tensor]:
    """What a kernel leaves in the operand's memory, and what the region computes.

    The kernel goes on by rows or by elements; for each it reads memory as it is by then, computes
    and stores. So the two differ where it reads what it has overwritten.
    """
    random = torch.Generator().manual_seed(0)

    def number(value: Value) -> Tensor:
        assert isinstance(value.type, TensorType)
        return torch.randn([5 if d == T else d for d in value.type.shape], generator=random)

    weights = {value.name: number(value) for value in graph.weights}
    values = {value.name: number(value) for value in graph.inputs}
    interpreter = Interpreter(graph, weights)
    (expected,) = interpreter.run(values)
    place = values["x"] = values["x"].clone()
    indices = product(*map(range, place.shape[:1] if family == "row" else place.shape))
    for index in indices:
        (result,) = interpreter.run(values)
        place[index] = result[index]
    return place, expected


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_legal_computes_the_same(name: str) -> None:
    body, family, type_ = LEGAL[name]
    found, expected = overwritten(graph_of(body, type_), family)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "name",
    [
        "a product's operand",
        "a view of it beside it",
        "a norm in a family without passes",
        "a mean over columns",
        "softmax over columns",
    ],
)
def test_what_is_illegal_would_compute_something_else(name: str) -> None:
    body, family, type_ = ILLEGAL[name]
    found, expected = overwritten(graph_of(body, type_), family)
    assert not torch.allclose(found, expected)
