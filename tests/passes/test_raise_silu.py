"""A value times its own sigmoid is one operator, and times another's is not."""

from __future__ import annotations

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_silu import raise_silu

from .numbers import operators, rewritten, worst

T = sym("T")


def silu(kind: str, dtype: DType = DType.F32) -> Graph:
    b = GraphBuilder("g")
    x, y = (b.input(name, TensorType(dtype, (T, 5))) for name in "xy")
    wide = b.one("cast", [x], {"dtype": DType.F32}) if kind == "between casts" else x
    if kind == "exp":
        below = b.one("add", [b.one("exp", [b.one("neg", [x])])], {"scalar": 1.0})
        return b.finish([b.one("div", [x, below])])
    if kind == "sum":
        return b.finish([b.one("add", [b.one("sigmoid", [x]), x])])
    inner = y if kind == "another" else wide
    result = b.one("mul", [b.one("sigmoid", [inner]), wide])
    if kind == "between casts":
        result = b.one("cast", [result], {"dtype": dtype})
    return b.finish([result])


@pytest.mark.parametrize("kind", ["sigmoid", "exp", "between casts"])
@pytest.mark.parametrize(("dtype", "bound"), [(DType.F32, 1e-6), (DType.BF16, 2**-7)])
def test_every_spelling_is_one_operator(kind: str, dtype: DType, bound: float) -> None:
    if kind == "between casts" and dtype is DType.F32:
        dtype = DType.F16
    graph = silu(kind, dtype)
    result, _ = rewritten(graph, raise_silu())
    assert operators(result) == ["silu"]
    assert worst(graph, result) <= (2**-10 if dtype is DType.F16 else bound)


@pytest.mark.parametrize("kind", ["another", "sum"])
def test_what_only_looks_like_it_is_left_alone(kind: str) -> None:
    graph = silu(kind)
    assert rewritten(graph, raise_silu())[0] is graph
