from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import IRError, ParseError
from graphopt.ir.shape import (
    Dim,
    Expr,
    dim_max,
    dim_min,
    evaluate,
    lower_bound,
    parse_dim,
    parse_dim_at,
    product,
    substitute,
    sym,
    symbols,
)

T, S = sym("T"), sym("S")
NAMES = ("T", "S", "n1")
Tree = int | str | tuple[str, "Tree", "Tree"]


def tree(rng: Random, depth: int) -> Tree:
    if depth == 0 or rng.random() < 0.2:
        return rng.choice((*NAMES, rng.randint(-5, 9)))
    return (
        rng.choice(("+", "-", "*", "//", "%", "min", "max")),
        tree(rng, depth - 1),
        tree(rng, depth - 1),
    )


def build(node: Tree) -> Dim:
    """The expression of a tree; divisors are made at least 1."""
    if isinstance(node, int):
        return node
    if isinstance(node, str):
        return sym(node)
    kind, left, right = node[0], build(node[1]), build(node[2])
    match kind:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "min":
            return dim_min(left, right)
        case "max":
            return dim_max(left, right)
        case "//":
            return left // dim_max(right, 1)
    return left % dim_max(right, 1)


def value(node: Tree, env: dict[str, int]) -> int:
    """What Python's own integers make of a tree."""
    if isinstance(node, int):
        return node
    if isinstance(node, str):
        return env[node]
    kind, left, right = node[0], value(node[1], env), value(node[2], env)
    match kind:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "min":
            return min(left, right)
        case "max":
            return max(left, right)
        case "//":
            return left // max(right, 1)
    return left % max(right, 1)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_expressions_mean_what_integers_mean(seed: int) -> None:
    rng = Random(seed)
    node = tree(rng, rng.randint(1, 4))
    dim = build(node)
    again = parse_dim(str(dim))
    assert again == dim
    assert hash(again) == hash(dim)
    assert str(again) == str(dim)
    assert symbols(dim) <= set(NAMES)
    for _ in range(4):
        env = {name: rng.randint(0, 12) for name in NAMES}
        assert evaluate(dim, env) == value(node, env)
        assert evaluate(substitute(dim, env), {}) == value(node, env)
        bound = lower_bound(dim)
        assert bound is None or evaluate(dim, env) >= bound


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_and_grouping_do_not_matter(seed: int) -> None:
    rng = Random(seed)
    parts = [build(tree(rng, 2)) for _ in range(3)]
    mixed = rng.sample(parts, 3)
    a, b, c = parts
    assert a + b + c == mixed[0] + (mixed[1] + mixed[2])
    assert a * b * c == mixed[0] * (mixed[1] * mixed[2])
    assert a * (b + c) == a * b + a * c
    assert dim_min(a, dim_min(b, c)) == dim_min(*mixed)
    assert dim_max(a, dim_max(b, c)) == dim_max(*mixed)
    assert a - a == 0


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (T + 1, "T + 1"),
        (1 - T, "-T + 1"),
        (2 * T * S - 3, "2*S*T - 3"),
        (T // 4, "T // 4"),
        ((T + 3) // 4 * 4, "4*((T + 3) // 4)"),
        (T // 4 + 1, "(T // 4) + 1"),
        (T % 8, "T % 8"),
        (dim_min(T, 7), "min(T, 7)"),
        (dim_max(T, S, 3), "max(S, T, 3)"),
        ((64 * T) // 128, "T // 2"),
        ((64 * T + 32) % 128, "32*((2*T + 1) % 4)"),
        ((8 * T) // 8, "T"),
        ((8 * T) % 8, "0"),
        ((T * S) // S, "T"),
        ((T * S + 1) // S, "(1 // S) + T"),
        (dim_max(T, 0), "T"),
        (dim_min(T, 0), "0"),
        (T - T, "0"),
        (product((2, T, 3)), "6*T"),
    ],
)
def test_canonical_text(dim: Dim, text: str) -> None:
    assert str(dim) == text
    assert parse_dim(text) == dim


@pytest.mark.parametrize(
    "text",
    ["", "T +", "T T", "2.5", "T ** 2", "(T", "T)", "min()", "max(T,)", "f(T)", "1 // 0", "T % 0",
     "é",
     "9" * 41, "-" * 200 + "T", "(" * 200 + "T" + ")" * 200, "T / 2", "none", "bf16"],
)  # fmt: skip
def test_what_is_not_an_expression(text: str) -> None:
    with pytest.raises(ParseError):
        parse_dim(text)


def test_reading_stops_where_the_expression_ends() -> None:
    assert parse_dim_at("[T + 1, 5]", 1) == (T + 1, 6)
    assert parse_dim_at("T%4", 0) == (T % 4, 3)


@pytest.mark.parametrize("name", ["", "1T", "a b", "none", "inf", "f32", "min", "T-1", "é"])
def test_names_that_a_size_cannot_have(name: str) -> None:
    with pytest.raises(IRError):
        sym(name)


def test_errors_of_evaluation() -> None:
    with pytest.raises(IRError, match="T has no value"):
        evaluate(T + 1, {"S": 1})
    with pytest.raises(IRError, match="divides by zero"):
        evaluate(1 // T, {"T": 0})
    with pytest.raises(IRError, match="divides by zero"):
        T // 0


def test_numbers_fold() -> None:
    for dim in (T * 0, T // T, (T + 1) - T, dim_min(3, 5), substitute(T * 2, {"T": 4})):
        assert isinstance(dim, int)
    assert isinstance(T * 1, Expr)
    assert lower_bound(T + 2) == 2
    assert lower_bound(S - T) is None
