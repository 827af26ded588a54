from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from types import MappingProxyType

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.compare import difference, same_attr, same_graph
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Node, Operand, SourceLocation, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

F = TensorType(DType.F32, (sym("T"), 3))


def make(name: str = "g", scalar: float = 2.0, line: int = 1, twice: bool = False) -> Graph:
    b = GraphBuilder(name)
    x, w = b.input("x", F), b.weight("w", TensorType(DType.F32, (3,)))
    y = b.one("add", [x, w], loc=SourceLocation("m.py", line))
    z = b.one("mul", [y], {"scalar": scalar})
    return b.finish([z, z] if twice else [z])


def with_node(graph: Graph, index: int, node: Node) -> Graph:
    nodes = (*graph.nodes[:index], node, *graph.nodes[index + 1 :])
    return Graph(graph.name, graph.inputs, graph.weights, nodes, graph.outputs)


def test_the_same_graph_made_twice_is_the_same() -> None:
    assert same_graph(make(), make())


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (make(name="h"), "names"),
        (make(scalar=3.0), "attributes"),
        (make(line=2), "locations"),
        (make(twice=True), "outputs"),
    ],
)
def test_every_difference_is_found(other: Graph, words: str) -> None:
    found = difference(make(), other)
    assert found is not None
    assert found.startswith(words)


def test_differences_of_values() -> None:
    left, right = make(), make()
    first = right.nodes[0]
    swapped = with_node(right, 0, replace(first, inputs=(first.inputs[1], first.inputs[0])))
    assert "inputs of" in str(difference(left, swapped))
    renamed = replace(first, outputs=(Value("renamed", F),))
    assert "outputs of" in str(difference(left, with_node(right, 0, renamed)))
    other_op = replace(first, op="sub")
    assert "operators" in str(difference(left, with_node(right, 0, other_op)))
    ordered = MappingProxyType({"reverse": False, "scalar": 2.0})
    assert not same_graph(left, with_node(right, 1, replace(right.nodes[1], attrs=ordered)))
    fewer = Graph("g", right.inputs, right.weights, right.nodes[:1], right.nodes[0].outputs)
    assert "nodes" in str(difference(left, fewer))
    weightless = Graph("g", right.inputs, (), right.nodes, right.outputs)
    assert "weights" in str(difference(left, weightless))
    retyped = Graph("g", (Value("x", TensorType(DType.F32, ())),), (), (), ())
    assert "inputs" in str(difference(left, retyped))


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, False), (1, True, False), (0, False, False), (0.0, -0.0, False), (nan, nan, True),
        (inf, inf, True), ((1, (2.0,)), (1, (2.0,)), True), ((1, (2.0,)), (1, (2,)), False),
        ((1,), (1, 1), False), (None, None, True), ("f32", DType.F32, False),
        (Operand(0), Operand(0), True), (sym("T") + 1, 1 + sym("T"), True),
    ],
)  # fmt: skip
def test_attributes(left: Attr, right: Attr, same: bool) -> None:
    assert same_attr(left, right) is same
