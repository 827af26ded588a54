"""Soft caps become one operator where they scale up by what they scaled down by."""

from __future__ import annotations

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_softcap import raise_softcap

from .numbers import operators, reasons, rewritten, worst

R = sym("T")


def capped(
    down: float,
    up: float,
    dtype: DType = DType.F32,
    *,
    op: str = "div",
    reverse: bool = False,
    between_casts: bool = False,
    curve: str = "tanh",
) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, (R, 11)))
    wide = b.one("cast", [x], {"dtype": DType.F32}) if between_casts else x
    inner = b.one(op, [wide], {"scalar": down, "reverse": reverse})
    result = b.one("mul", [b.one(curve, [inner])], {"scalar": up})
    if between_casts:
        result = b.one("cast", [result], {"dtype": dtype})
    return b.finish([result])


@pytest.mark.parametrize("cap", [30.0, 50.0, 0.7])
@pytest.mark.parametrize("op", ["div", "mul"])
def test_every_spelling_is_one_operator(cap: float, op: str) -> None:
    down = cap if op == "div" else 1 / cap
    for dtype, casts, bound in (
        (DType.F32, False, 1e-6),
        (DType.BF16, False, 2**-6),
        (DType.BF16, True, 2**-8),
    ):
        graph = capped(down, cap, dtype, op=op, between_casts=casts)
        result, entries = rewritten(graph, raise_softcap())
        assert operators(result) == ["softcap"]
        assert result.nodes[0].attrs["cap"] == cap
        assert worst(graph, result, scale=cap) <= bound
        assert not reasons(entries)


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (capped(30.0, 20.0), "divided by 30.0, multiplied by 20.0"),
        (capped(1 / 30, 31.0, op="mul"), "then by 31.0"),
        (capped(30.0, 30.0, op="mul"), "multiplied by 30.0, then by 30.0"),
        (capped(30.0, 30.0, reverse=True), "reverse = True, not False"),
        (capped(-30.0, -30.0), "the cap is -30.0"),
        (capped(30.0, 30.0, curve="sigmoid"), ""),
    ],
)
def test_other_scales_are_refused(graph: Graph, reason: str) -> None:
    result, entries = rewritten(graph, raise_softcap())
    assert result is graph
    assert reason in reasons(entries)


def test_a_result_of_another_type_keeps_its_casts() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, (R, 11)))
    wide = b.one("cast", [x], {"dtype": DType.F32})
    tanh = b.one("tanh", [b.one("div", [wide], {"scalar": 30.0})])
    wide = b.one("mul", [tanh], {"scalar": 30.0})
    graph = b.finish([b.one("cast", [wide], {"dtype": DType.F16})])
    result, entries = rewritten(graph, raise_softcap())
    assert operators(result) == ["cast", "softcap", "cast"]
    assert "of bf16[T, 11] it makes f16[T, 11]" in reasons(entries)
    assert worst(graph, result, scale=30.0) <= 2**-10
