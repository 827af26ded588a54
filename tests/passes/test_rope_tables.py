"""A table is narrowed where it surely repeats itself, and only there."""

from __future__ import annotations

import pytest
import torch

from graphopt.ir.builder import GraphBuilder, Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.rope_tables import Table, doubled, single

from .numbers import outputs, random_values

T = sym("T")
PAIRS = 4


def builder() -> tuple[GraphBuilder, Value]:
    b = GraphBuilder("g")
    return b, b.input("angles", TensorType(DType.F32, (T, PAIRS)))


def twice(b: GraphBuilder, x: Value, interleaved: bool) -> Value:
    axis = len(x.type.shape) - 1  # type: ignore[union-attr]
    if interleaved:
        return b.one("repeat_interleave", [x], {"repeats": 2, "dim": axis})
    return b.one("concat", [x, x], {"dim": axis})


def scaled_cosine(b: GraphBuilder, x: Value) -> Value:
    x = b.one("mul", [b.one("cos", [x])], {"scalar": 1.25})
    return b.one("cast", [x], {"dtype": DType.BF16})


def spread(b: GraphBuilder, x: Value) -> Value:
    return b.one("reshape", [x], {"shape": (T, 1, x.type.shape[-1])})  # type: ignore[union-attr]


def made(graph: Graph, table: Table | None) -> Graph:
    assert table is not None
    new = Rewriter(graph)
    for node in graph.nodes:
        new.copy(node)
    return new.finish([table.make(new, T)])


def same_numbers(graph: Graph, narrow: Graph, interleaved: bool) -> None:
    inputs, weights = random_values(graph, 5, 0)
    (wide,), (table,) = outputs(graph, inputs, weights), outputs(narrow, inputs, weights)
    assert table.shape == (5, PAIRS)
    both = table.repeat_interleave(2, -1) if interleaved else torch.cat((table, table), -1)
    assert torch.equal(wide.reshape(5, -1), both)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_a_doubled_table_is_computed_once_from_the_angles(interleaved: bool, late: bool) -> None:
    b, angles = builder()
    if late:
        wide = twice(b, spread(b, scaled_cosine(b, angles)), interleaved)
    else:
        wide = spread(b, scaled_cosine(b, twice(b, angles, interleaved)))
    graph = b.finish([wide])
    assert doubled(graph, wide, interleaved=not interleaved) is None
    narrow = made(graph, doubled(graph, wide, interleaved=interleaved))
    same_numbers(graph, narrow, interleaved)
    assert not [node for node in narrow.nodes if node.op in ("concat", "repeat_interleave")]


def test_pairs_from_the_first_half_of_a_table_of_halves() -> None:
    b, angles = builder()
    halves = spread(b, scaled_cosine(b, twice(b, angles, interleaved=False)))
    first = b.one("slice", [halves], {"dim": 2, "start": 0, "end": PAIRS, "step": 1})
    wide = twice(b, first, interleaved=True)
    graph = b.finish([wide])
    narrow = made(graph, doubled(graph, wide, interleaved=True))
    same_numbers(graph, narrow, interleaved=True)
    assert not [node for node in narrow.nodes if node.op in ("concat", "slice")]


def test_what_does_not_repeat_itself() -> None:
    b, angles = builder()
    other = b.input("other", angles.type)
    unequal = b.one("concat", [angles, other], {"dim": 1})
    turned = b.one("concat", [angles, b.one("neg", [angles])], {"dim": 1})
    thrice = b.one("repeat_interleave", [angles], {"repeats": 3, "dim": 1})
    tokens = b.one("concat", [angles, angles], {"dim": 0})
    mixed = b.one("mul", [twice(b, angles, interleaved=False), unequal])
    summed = b.one("cumsum", [twice(b, angles, interleaved=False)], {"dim": 1})
    folded = b.one("reshape", [twice(b, angles, interleaved=False)], {"shape": (2 * T, PAIRS)})
    values = (unequal, turned, thrice, tokens, mixed, summed, folded, angles)
    graph = b.finish(values[:-1])
    for value in values:
        for interleaved in (False, True):
            assert doubled(graph, value, interleaved=interleaved) is None


def test_a_table_as_wide_as_it_needs_to_be_stays() -> None:
    b, angles = builder()
    cosine = spread(b, scaled_cosine(b, angles))
    unequal = b.one("concat", [angles, b.one("neg", [angles])], {"dim": 1})
    part = b.one("slice", [unequal], {"dim": 1, "start": 0, "end": PAIRS, "step": 1})
    second = b.one(
        "slice",
        [twice(b, angles, interleaved=False)],
        {"dim": 1, "start": PAIRS, "end": 2 * PAIRS, "step": 1},
    )
    graph = b.finish([cosine, part, second])
    for value in (part, second, angles):
        assert single(graph, value) == Table(value)
    found = single(graph, cosine)
    assert found.source is angles
    assert [node.op for node in found.steps] == ["cos", "mul", "cast"]
