from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Operand, SourceLocation
from graphopt.ir.printer import print_attr, print_graph, print_location, print_name, print_node
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType

from .graphs import random_graph

TEXT = """\
graph @llama(%ids: i64[T], %kv: kv[2 x (1, 4, 4, bf16)]) -> (bf16[T, 8], i64[T, 2]) {
  @model.embed.weight: bf16[100, 8]
  @norm.weight: bf16[8]
  %0: bf16[T, 8] = embed(%ids, @model.embed.weight) {scale = 1.0}  // modeling_llama.py:66 in model
  %1: bf16[T, 8] = rms_norm(%0, @norm.weight) {eps = 1e-05, offset = 0.0, cast = "before"}
  %2: bf16[T, 2], %3: i64[T, 2] = topk(%1) {k = 2, dim = 1, largest = true, sorted = true}
  return %1, %3
}
"""


def test_the_whole_form() -> None:
    b = GraphBuilder("llama")
    ids = b.input("ids", TensorType(DType.I64, (sym("T"),)))
    b.input("kv", StateType("kv", (LayerState(1, 4, 4, DType.BF16),) * 2))
    table = b.weight("model.embed.weight", TensorType(DType.BF16, (100, 8)))
    x = b.one("embed", [ids, table], loc=SourceLocation("modeling_llama.py", 66, "model"))
    weight = b.weight("norm.weight", TensorType(DType.BF16, (8,)))
    y = b.one("rms_norm", [x, weight], {"eps": 1e-5})
    _, found = b.node("topk", [y], {"k": 2})
    graph = b.finish([y, found])
    assert print_graph(graph) == TEXT
    assert print_node(graph.nodes[0]) == TEXT.splitlines()[3].strip()


def test_a_graph_of_nothing() -> None:
    assert print_graph(GraphBuilder("g").finish([])) == "graph @g() -> () {\n  return\n}\n"


@pytest.mark.parametrize(
    ("attr", "text"),
    [
        (None, "none"), (True, "true"), (False, "false"), (3, "3"), (-3, "-3"), (3.0, "3.0"),
        (1e-5, "1e-05"), (inf, "inf"), (-inf, "-inf"), (nan, "nan"), (-0.0, "-0.0"),
        ('a"b\n', '"a\\"b\\n"'), (DType.F8E4M3, "f8e4m3"), (sym("T") + 1, "T + 1"),
        (Operand(1), "$1"),
        ((), "[]"), ((1, (None, "x"), 2.0), '[1, [none, "x"], 2.0]'),
    ],
)  # fmt: skip
def test_attributes(attr: Attr, text: str) -> None:
    assert print_attr(attr) == text


@pytest.mark.parametrize(
    ("loc", "text"),
    [
        (SourceLocation("m.py", 3, "model.layers.0"), "m.py:3 in model.layers.0"),
        (SourceLocation("m.py", 3), "m.py:3"),
        (SourceLocation("", 0, "model"), "in model"),
        (SourceLocation("", 7), ":7"),
        (SourceLocation("", 0), ":0"),
        (SourceLocation("odd name.py", 1, "a b"), '"odd name.py":1 in "a b"'),
    ],
)
def test_locations(loc: SourceLocation, text: str) -> None:
    assert print_location(loc) == text


def test_odd_names_are_quoted() -> None:
    assert print_name("model.layers.0-x") == "model.layers.0-x"
    assert print_name("a b") == '"a b"'
    assert print_name("") == '""'


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_text_is_ascii_one_line_a_node_and_always_the_same(seed: int) -> None:
    graph = random_graph(seed)
    text = print_graph(graph)
    assert text == print_graph(random_graph(seed))
    assert text.isascii()
    assert len(text.splitlines()) == 3 + len(graph.weights) + len(graph.nodes)
