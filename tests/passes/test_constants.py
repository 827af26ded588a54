"""Constants are weights and what is made from them alone."""

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify
from graphopt.passes.constants import (
    constant_nodes,
    constant_values,
    constants_first,
    is_constant,
)

T = sym("T")


def mixed() -> Graph:
    """A weight is widened and halved after the first work of the step."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 4)))
    w = b.weight("w", TensorType(DType.BF16, (4,)))
    moved = b.one("neg", [x])
    wide = b.one("cast", [w], {"dtype": DType.F32})
    half = b.one("mul", [wide], {"scalar": 0.5})
    table = b.one("iota", [], {"end": 4, "dtype": DType.F32})
    grown = b.one("expand", [half], {"shape": (T, 4)})
    total = b.one("add", [moved, half])
    total = b.one("add", [b.one("add", [total, table]), grown])
    return b.finish([total])


def test_constant_nodes() -> None:
    graph = mixed()
    assert [node.op for node in constant_nodes(graph)] == ["cast", "mul"]
    values = constant_values(graph)
    assert graph.weights[0] in values
    assert len(values) == 3


def test_one_value_at_a_time_agrees() -> None:
    graph = mixed()
    values = constant_values(graph)
    assert {value for value in graph.values() if is_constant(graph, value)} == values


def test_constants_first_is_the_same_graph_in_another_order() -> None:
    graph = mixed()
    ordered = constants_first(graph)
    verify(ordered)
    assert [node.op for node in ordered.nodes[:3]] == ["cast", "mul", "neg"]
    assert set(ordered.nodes) == set(graph.nodes)
    assert constants_first(ordered) is ordered


def test_what_depends_on_the_number_of_tokens_is_none() -> None:
    """Also where it has one size for all steps."""
    b = GraphBuilder("g")
    b.input("x", TensorType(DType.F32, (T,)))
    w = b.weight("w", TensorType(DType.F32, (4, 4)))
    graph = b.finish([b.one("mul", [w], {"scalar": T}), b.one("tril", [w], {"diagonal": T - 1})])
    assert constant_nodes(graph) == ()
    assert constant_values(graph) == set(graph.weights)
    assert not any(is_constant(graph, value) for value in graph.outputs)
