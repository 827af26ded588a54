"""Rotations in all their spellings become one operator, and what only looks like one does not."""

from __future__ import annotations

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_rope import RaiseRope
from graphopt.passes.share_common import ShareCommon

from .numbers import applied, operators, reasons, rewritten, worst
from .rotations import FORMS, INTERLEAVED, LAYOUTS, PAIRS, Spelling

BF16, F32, F16 = DType.BF16, DType.F32, DType.F16
T = sym("T")
TWO_ROUNDINGS = {BF16: 2**-7, F16: 2**-10}


def raised(graph: Graph) -> tuple[Graph, list[str]]:
    result, entries = rewritten(graph, RaiseRope(), ShareCommon())
    return result, applied(entries)


def rope_of(graph: Graph) -> Node:
    (node,) = graph.nodes_named("rope")
    return node


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_every_spelling_in_every_layout(form: str, layout: str, flipped: bool) -> None:
    graph = Spelling(form, layout, flipped=flipped).graph()
    result, _ = raised(graph)
    rope = rope_of(result)
    assert rope.attrs == {"interleaved": form in INTERLEAVED, "offset": 0}
    assert not {"neg", "sub", "add", "concat", "repeat_interleave"} & set(operators(result))
    assert [operators(result).count(name) for name in ("cos", "sin")] == [1, 1]
    assert rope.inputs[1].type.shape[1] == PAIRS
    assert worst(graph, result) == 0


@pytest.mark.parametrize("dtype", [BF16, F16])
@pytest.mark.parametrize("form", FORMS)
def test_in_a_narrow_type_it_rounds_less(form: str, dtype: DType) -> None:
    graph = Spelling(form, dtype=dtype, table=dtype).graph()
    result, _ = raised(graph)
    assert rope_of(result).inputs[1].type.dtype is dtype
    assert worst(graph, result) < TWO_ROUNDINGS[dtype]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("table", [BF16, F32])
@pytest.mark.parametrize("form", FORMS)
def test_casts_around_it_go(form: str, table: DType, layout: str) -> None:
    graph = Spelling(form, layout, BF16, table, computed=F32).graph()
    result, rules = raised(graph)
    assert rules[-1] == "drop-casts-around-rope"
    rope = rope_of(result)
    assert rope.output.type.dtype is BF16
    assert rope.inputs[1].type.dtype is table
    assert operators(result).count("cast") == (2 if table is BF16 else 0)
    assert worst(graph, result) == 0


@pytest.mark.parametrize(("start", "size"), [(0, 13), (5, 13)])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "sorted pairs"])
@pytest.mark.parametrize("computed", [None, F32])
def test_a_part_of_each_head(form: str, start: int, size: int, computed: DType | None) -> None:
    dtype = F32 if computed is None else BF16
    graph = Spelling(form, dtype=dtype, computed=computed, size=size, start=start).graph()
    result, rules = raised(graph)
    assert rules[-1] == "rotate-part"
    assert rope_of(result).attrs["offset"] == start
    assert not {"slice", "concat", "split"} & set(operators(result))
    assert worst(graph, result) == 0


def test_the_rest_may_come_from_elsewhere_and_then_stays_apart() -> None:
    spelling = Spelling(size=13)
    b = spelling.b
    x, y = (b.input(name, TensorType(F32, (spelling._shape(13)))) for name in "xy")
    angles = b.input("angles", TensorType(F32, (spelling._shape(13)[0], PAIRS)))
    part = spelling._slice(x, 0, 2 * PAIRS)
    turned = spelling._turned(part, *spelling.tables(angles))
    graph = b.finish([spelling._concat([turned, spelling._slice(y, 2 * PAIRS, 13)])])
    result, entries = rewritten(graph, RaiseRope())
    assert "not cut from one tensor" in reasons(entries)
    assert rope_of(result).attrs["offset"] == 0
    assert worst(graph, result) == 0


WRONG = {
    "wide halves": (
        "halves exchanged",
        "no sign",
        "unequal halves",
        "a table that is not doubled",
        "a table doubled the other way",
    ),
    "wide pairs": (
        "halves exchanged",
        "no sign",
        "joined as halves",
        "a table that is not doubled",
        "a table doubled the other way",
    ),
    "halves": ("halves exchanged", "no sign", "a reflection"),
    "complex": ("halves exchanged", "no sign", "a reflection"),
}


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("form", "wrong"), [(f, w) for f, found in WRONG.items() for w in found])
def test_what_only_looks_like_a_rotation_is_refused(form: str, wrong: str, flipped: bool) -> None:
    graph = Spelling(form, flipped=flipped, wrong=wrong).graph()
    result, entries = rewritten(graph, RaiseRope())
    assert "rope" not in operators(result)
    assert worst(graph, result) == 0
    assert any(not entry.applied for entry in entries)
    assert "reads the cos, and is no rotation" in reasons(entries)
    assert worst(graph, result) == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sign_in_the_other_half_turns_the_other_way(
    form: str, layout: str, flipped: bool
) -> None:
    spelling = Spelling(form, layout, flipped=flipped, wrong="sign in the other half")
    graph = spelling.graph()
    result, _ = raised(graph)
    rope = rope_of(result)
    assert [result.producers[table].op for table in rope.inputs[1:]] == ["mul", "neg"]
    assert worst(graph, result) == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", ["cosine and sine exchanged", "one table twice"])
def test_other_tables_give_another_rotation_and_stay_where_they_are(form: str, wrong: str) -> None:
    graph = Spelling(form, wrong=wrong).graph()
    result, _ = raised(graph)
    assert worst(graph, result) == 0
    right, _ = raised(Spelling(form).graph())
    tables = [
        [
            graph.producers[graph.producers[value].inputs[0]].op
            for value in rope_of(graph).inputs[1:]
        ]
        for graph in (result, right)
    ]
    assert tables[1] == ["cos", "sin"]
    assert tables[0] == (["sin", "cos"] if wrong.startswith("cosine") else ["cos", "cos"])


def test_every_other_element_is_no_part_of_a_head() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 2, 16)))
    cos, sin = (b.input(name, TensorType(DType.F32, (T, 2))) for name in ("cos", "sin"))
    cut = b.one("slice", [x], {"dim": 2, "start": 0, "end": 8, "step": 2})
    rest = b.one("slice", [x], {"dim": 2, "start": 8, "end": 16})
    turned = b.one("rope", [cut, cos, sin])
    graph = b.finish([b.one("concat", [turned, rest], {"dim": 2})])
    result, entries = rewritten(graph, RaiseRope())
    assert result is graph
    assert "not what they were cut from" in reasons(entries)


def test_parts_in_another_order_stay_apart() -> None:
    graph = Spelling(size=13, wrong="parts exchanged").graph()
    result, entries = rewritten(graph, RaiseRope())
    assert "not what they were cut from" in reasons(entries)
    assert "concat" in operators(result)
    assert worst(graph, result) == 0


def test_a_wide_rotation_that_something_else_reads_stays_wide() -> None:
    spelling = Spelling(dtype=BF16, computed=F32)
    whole = spelling.graph()
    wide = whole.nodes[-1].inputs[0]
    graph = Graph(whole.name, whole.inputs, whole.weights, whole.nodes, (*whole.outputs, wide))
    result, entries = rewritten(graph, RaiseRope())
    assert "read elsewhere" in reasons(entries)
    assert rope_of(result).output.type.dtype is F32
    assert worst(graph, result) == 0


def test_a_narrow_rotation_that_is_widened_stays_narrow() -> None:
    graph = Spelling(dtype=F32, computed=BF16).graph()
    result, entries = rewritten(graph, RaiseRope())
    assert "narrower type again" in reasons(entries)
    assert rope_of(result).output.type.dtype is BF16
    assert worst(graph, result) < TWO_ROUNDINGS[BF16]


def test_other_uses_of_the_tables_are_written_down() -> None:
    spelling = Spelling()
    whole = spelling.graph()
    cosine = whole.nodes_named("cos")[0].output
    squared = spelling.b.one("mul", [cosine, cosine])  # only from angles: still a table
    heads = spelling.b.one("select", [whole.inputs[0]], {"dim": 1, "index": 0})
    scaled = spelling.b.one("sub", [heads, squared])
    graph = spelling.b.finish([*whole.outputs, scaled])
    _, entries = rewritten(graph, RaiseRope())
    left = [entry for entry in entries if not entry.applied]
    assert [entry.reason for entry in left] == ["sub reads the cos, and is no rotation"]
    assert left[0].culprits == (str(scaled),)
