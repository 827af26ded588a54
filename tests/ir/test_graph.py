from __future__ import annotations

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Operand, SourceLocation, Value
from graphopt.ir.types import TensorType

F = TensorType(DType.F32, (2, 3))


def test_who_makes_and_who_reads() -> None:
    b = GraphBuilder("g")
    x, w = b.input("x", F), b.weight("w", F)
    y = b.one("add", [x, w])
    z = b.one("mul", [y, y])
    graph = b.finish([z])
    assert graph.producers == {y: graph.nodes[0], z: graph.nodes[1]}
    assert graph.users == {x: (graph.nodes[0],), w: (graph.nodes[0],), y: (graph.nodes[1],)}
    assert list(graph.values()) == [x, w, y, z]
    assert graph.nodes_named("mul") == (graph.nodes[1],)
    assert graph.nodes[1].output is z
    assert graph.input("x") is x
    with pytest.raises(KeyError):
        graph.input("y")


def test_text() -> None:
    x, w = Value("x", F), Value("a.b", F, is_weight=True)
    assert (str(x), str(w), repr(x)) == ("%x", "@a.b", "<%x: f32[2, 3]>")
    assert str(Operand(2)) == "$2"
    assert str(SourceLocation("m.py", 3, "model.layers.0")) == "m.py:3 in model.layers.0"
    assert str(SourceLocation("m.py", 3)) == "m.py:3"
    assert str(SourceLocation("", 0, "model")) == "in model"
    assert str(SourceLocation("", 0)) == ""


def test_values_are_equal_only_to_themselves() -> None:
    assert Value("x", F) != Value("x", F)
