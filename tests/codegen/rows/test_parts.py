"""The parts of a linear map's result: halves, every second column, or all of it."""

from __future__ import annotations

import pytest

from graphopt.codegen.rows.parts import anchor_of, parts_of
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.region import make_region

from ..cpp.linear_cases import AFTER, PARTS, After, N, linear_case, plain

T = sym("T")


@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize("after", AFTER)
def test_parts_of_known_epilogues(after: After, bits: int) -> None:
    graph, region = linear_case(plain, after, DType.BF16, bits)
    parts = parts_of(graph, region)
    assert len(parts.columns) == PARTS.get(after, 1)
    taken = sorted(column for part in parts.columns for column in range(*part))
    assert taken == list(range(N))
    assert sorted(set(parts.values.values())) == list(range(len(parts.columns)))


def test_where_the_parts_lie() -> None:
    half = N // 2
    found = {
        after.__name__: parts_of(*linear_case(plain, after, DType.F32)).columns for after in PARTS
    }
    assert found == {
        "glu_of_halves": ((0, half, 1), (half, N, 1)),
        "glu_of_turned_halves": ((0, half, 1), (half, N, 1)),
        "glu_of_every_second": ((0, N - 1, 2), (1, N, 2)),
    }


def columns_of(make) -> tuple[tuple[int, int, int], ...]:  # type: ignore[no-untyped-def]
    """The parts of an eight-column result that ``make`` reads."""
    b = GraphBuilder("parts")
    x, weight = b.input("x", TensorType(DType.F32, (T, 4))), TensorType(DType.F32, (8, 4))
    y = b.one("linear", [x, b.weight("w", weight)])
    graph = b.finish(make(b, y))
    region = make_region(graph, range(len(graph.nodes)), family="linear")
    assert anchor_of(graph, region).output is y
    return parts_of(graph, region).columns


def taken(b: GraphBuilder, y: Value, start: int, end: int, step: int = 1) -> Value:
    return b.one("slice", [y], {"dim": 1, "start": start, "end": end, "step": step})


WHOLE = ((0, 8, 1),)


def test_parts_that_leave_columns_out_are_none() -> None:
    assert columns_of(lambda b, y: [b.one("mul", [taken(b, y, 0, 3), taken(b, y, 5, 8)])]) == WHOLE


def test_parts_that_overlap_are_none() -> None:
    assert columns_of(lambda b, y: [b.one("mul", [taken(b, y, 0, 5), taken(b, y, 3, 8)])]) == WHOLE


def test_four_parts() -> None:
    def quarters(b: GraphBuilder, y: Value) -> list[Value]:
        one, two, three, four = b.node("split", [y], {"dim": 1, "sizes": (2, 2, 2, 2)})
        return [b.one("mul", [b.one("add", [one, two]), b.one("add", [three, four])])]

    assert columns_of(quarters) == ((0, 2, 1), (2, 4, 1), (4, 6, 1), (6, 8, 1))


def test_a_result_that_is_asked_for_is_whole() -> None:
    def both(b: GraphBuilder, y: Value) -> list[Value]:
        return [y, b.one("mul", [taken(b, y, 0, 4), taken(b, y, 4, 8)])]

    assert columns_of(both) == WHOLE


def test_a_part_of_a_part() -> None:
    def nested(b: GraphBuilder, y: Value) -> list[Value]:
        low, high = b.node("split", [y], {"dim": 1, "sizes": (4, 4)})
        pairs = [taken(b, half, start, 4, 2) for half in (low, high) for start in (0, 1)]
        first, second = (b.one("mul", pairs[n : n + 2]) for n in (0, 2))
        return [b.one("add", [first, second])]

    assert columns_of(nested) == ((0, 3, 2), (1, 4, 2), (4, 7, 2), (5, 8, 2))


def test_heads_are_no_parts() -> None:
    def heads(b: GraphBuilder, y: Value) -> list[Value]:
        return [b.one("relu", [b.one("reshape", [y], {"shape": (T, 2, 4)})])]

    assert columns_of(heads) == WHOLE
