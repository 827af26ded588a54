from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import ParseError, VerifyError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.compare import difference
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, SourceLocation
from graphopt.ir.parser import parse_graph, parse_type
from graphopt.ir.printer import print_graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ir.verify import verify

from .graphs import random_graph


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_print_parse_print_is_identical(seed: int) -> None:
    graph = random_graph(seed)
    text = print_graph(graph)
    again = parse_graph(text)
    assert difference(graph, again) is None
    assert print_graph(again) == text


SMALL = """graph @g(%x: f32[T, 4], %y: f32[T, 4]) -> f32[T, 4] {
  @w: f32[4]
  %0: f32[T, 4] = add(%x, @w)  // m.py:1 in a.b
  %1: f32[T, 4] = mul(%0) {scalar = 2.0, reverse = false}
  return %1
}
"""


def test_space_does_not_matter() -> None:
    squeezed = SMALL.replace("\n  ", "\n").replace(" = ", "=").replace(", ", ",")
    spread = SMALL.replace("(", " ( ").replace(")", "\n ) ").replace("{", "\n{ ").replace(":", " :")
    spread = spread.replace("m.py :1", "m.py:1")
    for text in (squeezed, spread, SMALL.replace("\n", "\r\n"), "\n\n" + SMALL + "\n \n"):
        assert difference(parse_graph(text), parse_graph(SMALL)) is None


@pytest.mark.parametrize(
    ("old", "new", "place", "expected"),
    [
        ("graph", "graf", "line 1, column 1", "graph"),
        ("@g(", "g(", "line 1, column 7", "% or @ and a name"),
        ("f32[T, 4], %y", "f33[T, 4], %y", "line 1, column 14", "element type"),
        ("%y: ", "%x: ", "line 1, column 36", "once"),
        ("%y: ", "@y: ", "line 1, column 36", "an input"),
        ("-> f32[T, 4]", "-> f32[T, 5]", "line 5, column 9", "values of types f32[T, 5]"),
        ("@w: f32[4]", "@w f32[4]", "line 2, column 6", ":"),
        ("@w: f32[4]", "@w: f32[4", "line 2, column 7", "a type"),
        ("@w: f32[4]", "@w: f32[4 *]", "line 2, column 11", "a size"),
        ("add(%x, @w)", "add(%z, @w)", "line 3, column 23", "defined above"),
        ("add(%x, @w)", "add(%1, @w)", "line 3, column 23", "defined above"),
        ("add(", "(", "line 3, column 18", "an operator"),
        ("m.py:1", "m.py", "line 3, column 37", ":"),
        ("in a.b", "in a.b c", "line 3, column 48", "the end of the line"),
        ("%1: f32", "%0: f32", "line 5, column 3", "once"),
        ("scalar = 2.0", "scalar 2.0", "line 4, column 33", "="),
        ("scalar = 2.0", "scalar = 2.0.1", "line 4, column 36", ","),
        ("reverse", "scalar", "line 4, column 45", "once"),
        ("return %1", "return %2", "line 5, column 10", "defined above"),
        ("return %1", "", "line 6, column 1", "% or @ and a name"),
        ("}\n", "} x", "line 6, column 3", "the end"),
    ],
)
def test_errors_say_where_and_what(old: str, new: str, place: str, expected: str) -> None:
    before, _, after = SMALL.rpartition(old) if old in ("}\n", "reverse") else SMALL.partition(old)
    with pytest.raises(ParseError) as caught:
        parse_graph(before + new + after)
    error = caught.value
    assert error.expected is not None
    assert expected in error.expected
    assert (error.where or "").startswith(place.split(",")[0]), error.where
    assert error.got


def test_an_error_shows_the_place_to_the_column() -> None:
    with pytest.raises(ParseError) as caught:
        parse_graph(SMALL.replace("add(%x", "add(%q"))
    assert str(caught.value).splitlines() == [
        "the text is not a graph",
        "  at       line 3, column 23",
        "  got      %q",
        "  expected a value that is defined above",
    ]


def test_weights_come_before_nodes() -> None:
    text = SMALL.replace("  @w: f32[4]\n", "").replace("add(%x, @w)", "add(%x, %y)")
    parse_graph(text)
    with pytest.raises(ParseError) as caught:
        parse_graph(text.replace("  return", "  @w: f32[4]\n  return"))
    assert caught.value.expected == "weights before nodes"


@pytest.mark.parametrize(
    "text",
    [
        "f32", "f32[", "f32[T,]", "f32[T T]", "f32[1.5]", "kv[1 (1, 1, 1, f32)]",
        "kv[0 x (1, 1, 1, f32)]",
        "kv[999999999 x (1, 1, 1, f32)]", "kv[1 x (1, 1, f32)]", "kv[1 x (1, 1, 1, f31)]",
        "cache[]",
        "f32[T] x", "f32[9999999999999999999999999999999999999999999]", "",
    ],
)  # fmt: skip
def test_what_is_not_a_type(text: str) -> None:
    with pytest.raises(ParseError):
        parse_type(text)


def test_types() -> None:
    layers = (LayerState(8, 64, 32, DType.BF16), LayerState(1, 2, 3, DType.F32, 9))
    for type_ in (
        TensorType(DType.F8E4M3, (sym("T") // 2 + 1, 3)),
        TensorType(DType.BOOL, ()),
        StateType("kv", layers[:1] * 3 + layers[1:]),
        StateType("latent", ()),
    ):
        assert parse_type(str(type_)) == type_


def test_deep_text_is_refused_and_not_overflowed() -> None:
    attrs = "[" * 5000 + "]" * 5000
    text = f"graph @g() -> () {{\n %0: f32[] = aten.x() {{args = {attrs}}}\n return\n}}"
    with pytest.raises(ParseError, match="not a graph"):
        parse_graph(text)


PIECES = (
    "", " ", "\n", "%", "@", '"', "\\", "(", ")", "[", "]", "{", "}", ",", ":", "=", "-", "->",
    "//", "$",
    "$9", "return", "graph", "f32", "T", "kv[", "1e9", "inf", "nan", "none", "99999999999999999999",
    "%0",
    "aten.", "\x00", "é", "\ud800", "in", "x", ".", "T // 0", "min(", "*",
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_damaged_text_is_an_error_or_a_graph(seed: int) -> None:
    rng = Random(seed)
    text = print_graph(random_graph(rng.randrange(400), most=5))
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 0, 1, 2, 10, 60)))
        moved = text[(other := rng.randrange(len(text) + 1)) : other + rng.randint(1, 20)]
        text = text[:start] + rng.choice((*PIECES, moved)) + text[end:]
    try:
        graph = parse_graph(text)
        verify(graph)
    except (ParseError, VerifyError) as error:
        assert str(error)  # noqa: PT017
        return
    again = print_graph(graph)
    assert print_graph(parse_graph(again)) == again


def long_graph(nodes: int) -> Graph:
    b = GraphBuilder("long")
    x = b.input("x", TensorType(DType.BF16, (sym("T"), 2048)))
    for i in range(nodes):
        w = b.weight(f"model.layers.{i}.mlp.weight", TensorType(DType.BF16, (2048,)))
        x = b.one(
            "mul", [x, w], loc=SourceLocation("modeling_llama.py", i, f"model.layers.{i}.mlp")
        )
    return b.finish([x])


def test_time_is_linear_in_the_text() -> None:
    texts = [print_graph(long_graph(nodes)) for nodes in (500, 5000)]
    best = []
    for text in texts:
        spent = []
        for _ in range(3):
            start = time.process_time()
            parse_graph(text)
            spent.append(time.process_time() - start)
        best.append(min(spent))
    assert best[1] < 40 * best[0]
