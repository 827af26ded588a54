"""An operand is overwritten only by a region that reads each element no later than it writes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.in_place import reads_where_it_writes
from graphopt.region import make_region

T = sym("T")
ROWS = TensorType(DType.F32, (T, 8))
SQUARE = TensorType(DType.F32, (8, 8))
Body = Callable[[GraphBuilder, Value, Value], Value]


def decide(body: Body, family: str, *, type_: TensorType = ROWS, nodes: int = 0) -> bool:
    """Whether a region of all nodes that ``body`` makes may write its result over its first."""
    b = GraphBuilder("g")
    x, other = b.input("x", type_), b.input("other", type_)
    graph: Graph = b.finish([body(b, x, other)])
    assert len(graph.nodes) >= nodes
    region = make_region(graph, range(len(graph.nodes)), family=family)
    return reads_where_it_writes(graph, region, x, graph.outputs[0])


def weight(b: GraphBuilder, *shape: int) -> Value:
    return b.weight(f"w{len(shape)}", TensorType(DType.F32, shape))


def residual(b: GraphBuilder, x: Value, other: Value) -> Value:
    return b.one("add", [x, b.one("linear", [other, weight(b, 8, 8)])])


def product(b: GraphBuilder, x: Value, other: Value) -> Value:
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
    "a product's operand": (product, "linear", ROWS),
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
    assert decide(body, family, type_=type_)


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal(name: str) -> None:
    body, family, type_ = ILLEGAL[name]
    assert not decide(body, family, type_=type_)


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


def test_the_rules_for_two_orders_of_a_kernel() -> None:
    """What the rules are about, on numbers: the legal case survives the overwriting, the other not.

    The kernel goes through the elements in order, loading and storing one at a time.
    """
    x = np.arange(16.0).reshape(4, 4)
    expected = {"silu": x * 2, "turned": x + x.T}
    place = x.copy()
    for i in range(4):
        for j in range(4):
            place[i, j] = place[i, j] * 2
    assert (place == expected["silu"]).all()
    place = x.copy()
    for i in range(4):
        for j in range(4):
            place[i, j] = place[i, j] + place[j, i]
    assert not (place == expected["turned"]).all()
