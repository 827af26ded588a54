"""Every spelling of a GELU is one operator; other numbers, values and curves are not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_gelu import raise_gelu

from .numbers import operators, reasons, rewritten, worst

T = sym("T")
SLOPE = math.sqrt(2 / math.pi)
Form = Callable[["Writer", Value], Value]


class Writer:
    """Arithmetic in few letters."""

    def __init__(self) -> None:
        self.b = GraphBuilder("g")

    def __getattr__(self, op: str) -> Callable[..., Value]:
        def make(*values: Value, by: float | None = None) -> Value:
            attrs = {} if by is None else {"scalar": by}
            return self.b.one(op, list(values), attrs)

        return make


def cube_of_pow(w: Writer, x: Value) -> Value:
    return w.mul(w.pow(x, by=3.0), by=0.044715)


def half_first(w: Writer, x: Value, curve: Value) -> Value:
    return w.mul(w.mul(x, by=0.5), w.add(curve, by=1.0))


def gelu_new(w: Writer, x: Value) -> Value:
    return half_first(w, x, w.tanh(w.mul(w.add(x, cube_of_pow(w, x)), by=SLOPE)))


def bloom(w: Writer, x: Value) -> Value:
    inner = w.add(w.mul(w.mul(x, by=0.044715), x), by=1.0)
    return half_first(w, x, w.tanh(w.mul(w.mul(x, by=0.79788456), inner)))


def fast(w: Writer, x: Value) -> Value:
    inner = w.add(w.mul(w.pow(x, by=2.0), by=0.044715), by=1.0)
    return half_first(w, x, w.tanh(w.mul(w.mul(x, by=0.7978845608), inner)))


def half_last(w: Writer, x: Value) -> Value:
    cube = w.mul(w.mul(w.mul(x, x), x), by=0.044715)
    curve = w.tanh(w.mul(w.add(cube, x), by=SLOPE))
    return w.mul(w.mul(w.add(curve, by=1.0), x), by=0.5)


def half_of_curve(w: Writer, x: Value) -> Value:
    cube = w.mul(w.mul(w.mul(x, by=0.044715), x), x)
    curve = w.tanh(w.mul(w.add(x, cube), by=SLOPE))
    return w.mul(x, w.div(w.add(curve, by=1.0), by=2.0))


def erf_form(w: Writer, x: Value) -> Value:
    return half_first(w, x, w.erf(w.div(x, by=math.sqrt(2.0))))


def erf_times(w: Writer, x: Value) -> Value:
    curve = w.add(w.erf(w.mul(x, by=0.7071067811865475)), by=1.0)
    return w.mul(w.mul(x, curve), by=0.5)


def quick(w: Writer, x: Value) -> Value:
    return w.mul(x, w.sigmoid(w.mul(x, by=1.702)))


SPELLINGS = {
    "tanh": (gelu_new, bloom, fast, half_last, half_of_curve),
    "none": (erf_form, erf_times),
    "sigmoid": (quick,),
}
CASES = [(name, form) for name, forms in SPELLINGS.items() for form in forms]


def graph_of(form: Form, dtype: DType, *, between_casts: bool = False) -> Graph:
    w = Writer()
    x = w.b.input("x", TensorType(dtype, (T, 5)))
    if not between_casts:
        return w.b.finish([form(w, x)])
    wide = w.b.one("cast", [x], {"dtype": DType.F32})
    return w.b.finish([w.b.one("cast", [form(w, wide)], {"dtype": dtype})])


@pytest.mark.parametrize(("approximate", "form"), CASES)
def test_every_spelling_is_one_operator(approximate: str, form: Form) -> None:
    for dtype, bound in ((DType.F32, 1e-6), (DType.BF16, 2**-6)):
        graph = graph_of(form, dtype)
        result, _ = rewritten(graph, raise_gelu())
        (node,) = result.nodes
        assert (node.op, node.attrs["approximate"]) == ("gelu", approximate)
        assert worst(graph, result) <= bound
        assert worst(graph, result, scale=4.0) <= bound


@pytest.mark.parametrize(("approximate", "form"), CASES)
def test_casts_around_it_are_part_of_it(approximate: str, form: Form) -> None:
    graph = graph_of(form, DType.BF16, between_casts=True)
    result, _ = rewritten(graph, raise_gelu())
    assert operators(result) == ["gelu"]
    assert result.nodes[0].attrs["approximate"] == approximate
    assert worst(graph, result) <= 2**-8  # a last digit of float32 may turn a rounding


def test_a_result_that_stays_wide_keeps_its_cast() -> None:
    w = Writer()
    x = w.b.input("x", TensorType(DType.BF16, (T, 5)))
    graph = w.b.finish([gelu_new(w, w.b.one("cast", [x], {"dtype": DType.F32}))])
    result, _ = rewritten(graph, raise_gelu())
    assert operators(result) == ["cast", "gelu"]
    assert worst(graph, result) <= 1e-6


def other_slope(w: Writer, x: Value) -> Value:
    return half_first(w, x, w.tanh(w.mul(w.add(x, cube_of_pow(w, x)), by=0.8)))


def other_power(w: Writer, x: Value) -> Value:
    cubic = w.mul(w.pow(x, by=2.0), by=0.044715)
    return half_first(w, x, w.tanh(w.mul(w.add(x, cubic), by=SLOPE)))


def other_value(w: Writer, x: Value) -> Value:
    return half_first(w, w.neg(x), w.tanh(w.mul(w.add(x, cube_of_pow(w, x)), by=SLOPE)))


def no_half(w: Writer, x: Value) -> Value:
    return w.mul(x, w.add(w.erf(w.div(x, by=math.sqrt(2.0))), by=1.0))


def no_one(w: Writer, x: Value) -> Value:
    return w.mul(w.mul(x, by=0.5), w.add(w.erf(w.div(x, by=math.sqrt(2.0))), by=2.0))


def not_over_root(w: Writer, x: Value) -> Value:
    return half_first(w, x, w.erf(w.mul(x, by=math.sqrt(2.0))))


def other_steepness(w: Writer, x: Value) -> Value:
    return w.mul(x, w.sigmoid(w.mul(x, by=1.7)))


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (other_slope, "scalar = 0.8, not 0.797885"),
        (other_power, ""),
        (other_value, "x is"),
        (no_half, "erf is part of no gelu"),
        (no_one, "erf is part of no gelu"),
        (not_over_root, "scalar = 1.41421"),
        (other_steepness, ""),
    ],
)
def test_other_curves_are_left_alone(form: Form, reason: str) -> None:
    graph = graph_of(form, DType.F32)
    result, entries = rewritten(graph, raise_gelu())
    assert result is graph
    assert reason in reasons(entries)
