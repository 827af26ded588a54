"""Spellings: numbers but for their last digits, products in every order, powers however written."""

from __future__ import annotations

from itertools import permutations

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.match import Match, Pattern, Var, match, op
from graphopt.passes.rules import RulePass
from graphopt.passes.spelling import activation_rules, near, power, product, scaled

from .numbers import operators, reasons, rewritten

X = TensorType(DType.F32, (sym("T"), 3))
x, y, z = Var("x"), Var("y"), Var("z")


def holds(pattern: Pattern, graph: Graph) -> bool:
    return isinstance(match(pattern, graph, graph.nodes[-1]), Match)


def test_constants_may_differ_in_their_last_digits() -> None:
    constant = near(0.79788456)
    assert constant.accepts is not None
    assert constant.accepts(0.7978845608028654)
    assert not constant.accepts(0.79788)
    assert not constant.accepts(1)
    assert constant.expected == "0.797885"


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_a_product_holds_in_every_order(order: tuple[int, ...]) -> None:
    for pairs in (False, True):  # ((a b) c) d and (a b) (c d)
        b = GraphBuilder("g")
        factors = [b.input(name, X) for name in "xyz"]
        items: list[Value | float] = [*factors, 0.5]
        chosen = [items[i] for i in order]

        def times(left: Value | float, right: Value | float) -> Value:
            if isinstance(left, float):
                left, right = right, left
            assert isinstance(left, Value)
            if isinstance(right, float):
                return b.one("mul", [left], {"scalar": right})  # noqa: B023
            return b.one("mul", [left, right])  # noqa: B023

        first = times(chosen[0], chosen[1])
        last = (
            times(first, times(chosen[2], chosen[3]))
            if pairs
            else times(times(first, chosen[2]), chosen[3])
        )
        graph = b.finish([last])
        assert holds(product([x, y, z], 0.5), graph)
        assert not holds(product([x, y, z], 0.25), graph)
        assert not holds(product([x, x, z], 0.5), graph)


def test_scaled_by_a_quotient() -> None:
    b = GraphBuilder("g")
    value = b.input("x", X)
    assert holds(scaled(x, 0.5), b.finish([b.one("div", [value], {"scalar": 2.0})]))
    upside_down = {"scalar": 2.0, "reverse": True}
    assert not holds(scaled(x, 0.5), b.finish([b.one("div", [value], upside_down)]))


def test_powers() -> None:
    b = GraphBuilder("g")
    value = b.input("x", X)
    square = b.one("mul", [value, value])
    assert holds(power(x, 2), b.finish([square]))
    cube = b.finish([b.one("mul", [value, square])])
    assert holds(power(x, 3), cube)
    assert not holds(power(x, 2), cube)
    assert holds(power(x, 3), b.finish([b.one("pow", [value], {"scalar": 3.0})]))
    of_two = b.one("pow", [value], {"scalar": 2.0, "reverse": True})
    assert not holds(power(x, 2), b.finish([of_two]))


def test_a_function_between_casts_is_one_where_the_types_agree() -> None:
    rules = RulePass("negations", activation_rules("abs", [lambda v: op.abs(v)], "relu"))
    for back, expected in (
        (DType.BF16, ["relu"]),
        (DType.F16, ["cast", "relu", "cast"]),
    ):
        b = GraphBuilder("g")
        value = b.input("x", TensorType(DType.BF16, (3,)))
        wide = b.one("abs", [b.one("cast", [value], {"dtype": DType.F32})])
        graph = b.finish([b.one("cast", [wide], {"dtype": back})])
        result, entries = rewritten(graph, rules)
        assert operators(result) == expected
        assert bool(reasons(entries)) == (back is DType.F16)


@pytest.mark.parametrize(
    ("own", "wide", "raised"),
    [
        (DType.BF16, DType.F32, True),
        (DType.F32, DType.F64, True),
        (DType.F32, DType.BF16, False),
        (DType.F64, DType.F32, False),
        (DType.BF16, DType.F16, False),
        (DType.F32, DType.I32, False),
    ],
)
def test_a_function_is_raised_from_a_wider_type_only(own: DType, wide: DType, raised: bool) -> None:
    rules = RulePass("absolutes", activation_rules("abs", [lambda v: op.abs(v)], "neg"))
    b = GraphBuilder("g")
    value = b.one("cast", [b.input("x", TensorType(own, (3,)))], {"dtype": wide})
    graph = b.finish([b.one("cast", [b.one("abs", [value])], {"dtype": own})])
    result, entries = rewritten(graph, rules)
    assert operators(result) == (["neg"] if raised else ["cast", "neg", "cast"])
    assert raised or f"computed in {wide}" in reasons(entries)
