"""Columns are right if they say where numbers come from that the interpreter moves."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.columns import ZERO, Columns

T = sym("T")
TOKENS = 3
F64 = DType.F64


def axis_of(value: Value) -> int:
    return value.type.shape.index(T)


def random_move(b: GraphBuilder, rng: Random, values: list[Value]) -> Value:
    """One more node that moves data; the tokens stay one dimension."""
    x = rng.choice(values)
    shape, axis = list(x.type.shape), axis_of(x)
    others = [dim for dim in range(len(shape)) if dim != axis]
    match rng.choice(["permute", "reshape", "cut", "join", "widen"]):
        case "permute":
            return b.one("permute", [x], {"dims": tuple(rng.sample(range(len(shape)), len(shape)))})
        case "reshape":
            dim = rng.choice(others)
            if dim + 1 in others and rng.random() < 0.5:
                merged = shape[dim] * shape[dim + 1]
                return b.one("reshape", [x], {"shape": (*shape[:dim], merged, *shape[dim + 2 :])})
            part = rng.choice([n for n in (1, 2, 3) if shape[dim] % n == 0])
            split = (part, shape[dim] // part)
            return b.one("reshape", [x], {"shape": (*shape[:dim], *split, *shape[dim + 1 :])})
        case "cut" if any(shape[dim] > 1 for dim in others):
            dim = rng.choice([dim for dim in others if shape[dim] > 1])
            start = rng.randrange(shape[dim])
            if rng.random() < 0.5:
                attrs: dict[str, Attr] = {"start": start, "end": shape[dim]}
                return b.one("slice", [x], {"dim": dim, **attrs, "step": rng.choice((1, 2))})
            sizes = (start, shape[dim] - start)
            return b.node("split", [x], {"dim": dim, "sizes": sizes})[rng.randrange(start > 0, 2)]
        case "join":
            dim = rng.choice(others)
            alike = [
                v for v in values
                if len(v.type.shape) == len(shape)
                and all(v.type.shape[d] == shape[d] for d in range(len(shape)) if d != dim)
            ]  # fmt: skip
            return b.one("concat", [x, rng.choice(alike)], {"dim": dim})
    dim = rng.choice(others)
    match rng.randrange(4):
        case 0 if shape[dim] == 1:
            return b.one("expand", [x], {"shape": (*shape[:dim], 3, *shape[dim + 1 :])})
        case 1:
            return b.one("repeat_interleave", [x], {"repeats": 2, "dim": dim})
        case 2 if len(shape) > 2:
            return b.one("select", [x], {"dim": dim, "index": rng.randrange(shape[dim])})
    pads = [0, 0] * len(shape)
    pads[2 * (len(shape) - 1 - dim)] = 1
    return b.one("pad_constant", [x], {"pads": tuple(pads)})


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_columns_say_where_the_numbers_come_from(seed: int) -> None:
    rng, b = Random(seed), GraphBuilder("g")
    sources = [b.input(f"x{i}", TensorType(F64, (T, rng.choice((4, 6))))) for i in range(2)]
    values = [*sources, b.one("neg", [sources[0]])]
    for _ in range(rng.randint(1, 8)):
        value = random_move(b, rng, values)
        if 0 not in value.type.shape and len(value.type.shape) < 6:
            values.append(value)
    graph = b.finish(values)
    inputs = {v.name: torch.rand(TOKENS, v.type.shape[1], dtype=torch.float64) for v in sources}
    results = dict(zip(values, Interpreter(graph, {}).run(inputs), strict=True))
    columns = Columns(graph, T)
    for value in values:
        table = columns.of(value)
        assert table is not None
        found = np.moveaxis(results[value].numpy(), axis_of(value), 0).reshape(TOKENS, -1)
        for place, code in enumerate(table.reshape(-1)):
            expected: object = np.zeros(TOKENS)
            if code != ZERO:
                found_source = columns.source(np.array([code]))
                assert found_source is not None
                source, (own,) = found_source
                assert source in values[:3]
                expected = results[source].numpy()[:, own]
            np.testing.assert_array_equal(found[:, place], expected)


def test_a_reshape_that_mixes_tokens_is_a_source_of_its_own() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(F64, (4, T, 2)))
    mixed = b.one("reshape", [x], {"shape": (T, 4, 2)})
    columns = Columns(b.finish([mixed]), T)
    table = columns.of(mixed)
    assert table is not None
    found = columns.source(table)
    assert found is not None
    assert found[0] is mixed


def test_values_without_one_dimension_of_tokens_have_no_columns() -> None:
    b = GraphBuilder("g")
    none = b.input("none", TensorType(F64, (3, 4)))
    other = b.input("other", TensorType(F64, (sym("R"), T)))
    twice = b.input("twice", TensorType(F64, (T, T)))
    columns = Columns(b.finish([none]), T)
    assert [columns.of(value) for value in (none, other, twice)] == [None] * 3


@pytest.mark.parametrize(("dim", "rows"), [(0, True), (1, False)])
def test_rows_are_of_values_with_nothing_before_the_tokens(dim: int, rows: bool) -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(F64, (2, T, 3) if dim else (1, T, 6)))
    columns = Columns(b.finish([x]), T)
    found = columns.rows(x)
    assert (found is not None) == rows
    assert found is None or found.shape == (6,)


def test_origins_come_from_near_to_far() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(F64, (T, 2)))
    y = b.one("exp", [x])
    wide = b.one("reshape", [y], {"shape": (T, 1, 2)})
    both = b.one("concat", [wide, wide], {"dim": 1})
    assert list(Columns(b.finish([both]), T).origins(both)) == [both, wide, y]


def test_columns_of_several_sources_have_no_one_source() -> None:
    b = GraphBuilder("g")
    x, y = (b.input(name, TensorType(F64, (T, 2))) for name in "xy")
    both = b.one("concat", [x, y], {"dim": 1})
    columns = Columns(b.finish([both]), T)
    table = columns.of(both)
    assert table is not None
    assert columns.source(table) is None
    assert columns.source(table[:, 2:]) is not None
