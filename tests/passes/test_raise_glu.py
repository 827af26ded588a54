"""Products with an activated gate become one operator; products of other things do not."""

from __future__ import annotations

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_glu import raise_glu

from .numbers import operators, reasons, rewritten, worst

T = sym("T")
ACTIVATED: dict[str, tuple[str, dict[str, Attr]]] = {
    "silu": ("silu", {}),
    "gelu": ("gelu", {"approximate": "none"}),
    "gelu_tanh": ("gelu", {"approximate": "tanh"}),
    "quick_gelu": ("gelu", {"approximate": "sigmoid"}),
    "relu": ("relu", {}),
    "relu2": ("relu", {}),
    "sigmoid": ("sigmoid", {}),
    "tanh": ("tanh", {}),
}


def activate(b: GraphBuilder, name: str, gate: Value, *, square: str = "mul") -> Value:
    op, attrs = ACTIVATED[name]
    value = b.one(op, [gate], attrs)
    if name != "relu2":
        return value
    return b.one("mul", [value, value]) if square == "mul" else b.one("pow", [value], {"scalar": 2})


def gated(
    name: str,
    dtype: DType,
    *,
    swapped: bool = False,
    square: str = "mul",
    casts: bool = False,
    chunked: bool = False,
) -> Graph:
    b = GraphBuilder("g")
    if chunked:
        both = b.input("x", TensorType(dtype, (T, 14)))
        gate, up = b.node("split", [both], {"sizes": (7, 7), "dim": 1})
    else:
        gate, up = (b.input(name, TensorType(dtype, (T, 7))) for name in ("gate", "up"))
    wide = b.one("cast", [gate], {"dtype": DType.F32}) if casts else gate
    value = activate(b, name, wide, square=square)
    if casts:
        value = b.one("cast", [value], {"dtype": dtype})
    return b.finish([b.one("mul", [up, value] if swapped else [value, up])])


@pytest.mark.parametrize("name", ACTIVATED)
@pytest.mark.parametrize("swapped", [False, True])
def test_every_activation_gates(name: str, swapped: bool) -> None:
    for dtype, bound in ((DType.F32, 1e-6), (DType.BF16, 2**-6 if name == "relu2" else 2**-7)):
        for square in ("mul", "pow"):
            graph = gated(name, dtype, swapped=swapped, square=square)
            result, _ = rewritten(graph, raise_glu())
            (node,) = result.nodes
            assert (node.op, node.attrs["activation"]) == ("glu", name)
            assert [value.name for value in node.inputs] == ["gate", "up"]
            assert worst(graph, result) <= bound


@pytest.mark.parametrize("name", ACTIVATED)
def test_a_gate_that_is_widened_for_its_activation(name: str) -> None:
    graph = gated(name, DType.BF16, casts=True)
    result, _ = rewritten(graph, raise_glu())
    assert operators(result) == ["glu"]
    assert worst(graph, result) <= 2**-7


def test_gate_and_up_may_be_parts_of_one_value() -> None:
    graph = gated("silu", DType.F32, chunked=True)
    result, _ = rewritten(graph, raise_glu())
    assert operators(result) == ["split", "glu"]
    assert worst(graph, result) <= 1e-6


def test_a_square_alone_is_no_gate() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 7)))
    graph = b.finish([activate(b, "relu2", x)])
    result, entries = rewritten(graph, raise_glu())
    assert result is graph
    assert "a value times its own activation" in reasons(entries)


@pytest.mark.parametrize("shape", [(T, 1), (7,), (1, 7), (T, T, 7)])
def test_a_gate_that_broadcasts_is_refused(shape: tuple[Dim, ...]) -> None:
    b = GraphBuilder("g")
    up = b.input("up", TensorType(DType.F32, (T, 7)))
    gate = b.input("gate", TensorType(DType.F32, shape))
    graph = b.finish([b.one("mul", [b.one("sigmoid", [gate]), up])])
    result, entries = rewritten(graph, raise_glu())
    assert result is graph
    assert "is gated" in reasons(entries)


@pytest.mark.parametrize("kind", ["sum", "constant", "own gate", "other function"])
def test_what_only_looks_like_it_is_left_alone(kind: str) -> None:
    b = GraphBuilder("g")
    gate, up = (b.input(name, TensorType(DType.F32, (T, 7))) for name in ("gate", "up"))
    value = b.one("sin" if kind == "other function" else "silu", [gate])
    if kind == "constant":
        graph = b.finish([b.one("mul", [value], {"scalar": 2.0})])
    elif kind == "own gate":
        graph = b.finish([b.one("mul", [value, gate])])
    else:
        graph = b.finish([b.one("add" if kind == "sum" else "mul", [value, up])])
    assert rewritten(graph, raise_glu())[0] is graph


def test_whole_numbers_are_no_gate() -> None:
    """Neither given nor as what a gate is cut to before its activation."""
    b = GraphBuilder("g")
    gate, up = (b.input(name, TensorType(DType.F32, (T, 7))) for name in ("gate", "up"))
    cut = b.one("relu", [b.one("cast", [gate], {"dtype": DType.I32})])
    counts = b.input("counts", TensorType(DType.I32, (T, 7)))
    back = b.one("cast", [cut], {"dtype": DType.F32})
    graph = b.finish([b.one("mul", [back, up]), b.one("mul", [b.one("relu", [counts]), counts])])
    result, entries = rewritten(graph, raise_glu())
    assert result is graph
    assert "computed in i32" in reasons(entries)


def test_whole_numbers_are_not_gated() -> None:
    b = GraphBuilder("g")
    gate, up = (b.input(name, TensorType(DType.I32, (T, 7))) for name in ("gate", "up"))
    result, entries = rewritten(b.finish([b.one("mul", [b.one("relu", [gate]), up])]), raise_glu())
    assert operators(result) == ["relu", "mul"]
    assert "the gate is i32[T, 7]" in reasons(entries)
