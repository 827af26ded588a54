"""Halves and pairs are seen in every way in which they are cut, and nothing else is."""

from __future__ import annotations

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.spans import Pair, Span, pair_of, span_of

X = TensorType(DType.F32, (sym("T"), 2, 8))


def cut(b: GraphBuilder, x: Value, start: int, end: int, step: int = 1, dim: int = 2) -> Value:
    return b.one("slice", [x], {"dim": dim, "start": start, "end": end, "step": step})


def viewed(b: GraphBuilder, x: Value, *sizes: int, dim: int) -> list[Value]:
    view = b.one("reshape", [x], {"shape": (sym("T"), 2, *sizes)})
    return [b.one("select", [view], {"dim": dim, "index": index}) for index in (0, 1)]


def halves(b: GraphBuilder, x: Value, form: str) -> list[Value]:
    if form == "split":
        return list(b.node("split", [x], {"sizes": (4, 4), "dim": 2}))
    if form == "slice":
        return [cut(b, x, 0, 4), cut(b, x, 4, 8)]
    if form == "steps":
        return [cut(b, x, 0, 8, 2), cut(b, x, 1, 8, 2)]
    if form == "view of pairs":
        return viewed(b, x, 4, 2, dim=3)
    return viewed(b, x, 2, 4, dim=2)


@pytest.mark.parametrize(
    ("form", "interleaved"),
    [
        ("split", False),
        ("slice", False),
        ("view of halves", False),
        ("steps", True),
        ("view of pairs", True),
    ],
)
def test_halves_and_pairs(form: str, interleaved: bool) -> None:
    b = GraphBuilder("g")
    x = b.input("x", X)
    first, second = halves(b, x, form)
    graph = b.finish([first, second])
    assert pair_of(graph, first, second) == Pair(x, interleaved)
    assert pair_of(graph, second, first) is None
    assert pair_of(graph, first, first) is None


def test_what_are_no_halves() -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", X), b.input("y", X)
    low, high = cut(b, x, 0, 4), cut(b, x, 4, 8)
    odd = cut(b, x, 1, 8, 2)
    others = [cut(b, y, 4, 8), cut(b, x, 4, 7), cut(b, x, 3, 8), odd, x]
    heads = [cut(b, x, 0, 1, dim=1), cut(b, x, 1, 2, dim=1)]
    thirds = viewed(b, b.one("reshape", [x], {"shape": (sym("T"), 2, 2, 4)}), 2, 4, dim=2)
    graph = b.finish([low, high, *others[:-1], *heads, *thirds])
    assert pair_of(graph, low, high) == Pair(x, False)
    for other in others:
        assert pair_of(graph, low, other) is None
    assert pair_of(graph, *heads) is None
    assert pair_of(graph, *thirds) is None


def test_spans_of_a_split() -> None:
    b = GraphBuilder("g")
    x = b.input("x", X)
    parts = b.node("split", [x], {"sizes": (1, 5, 2), "dim": 2})
    graph = b.finish(parts)
    assert [span_of(graph, part) for part in parts] == [
        Span(x, 0, 1),
        Span(x, 1, 6),
        Span(x, 6, 8),
    ]
    assert span_of(graph, x) is None
