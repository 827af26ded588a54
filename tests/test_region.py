"""A region knows what crosses its border, and a state knows where it comes from."""

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import SourceLocation
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.region import make_region, state_root

T = sym("T")
KIND = TensorType(DType.F32, (T, 8))


def test_borders_of_a_region() -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", KIND), b.input("y", KIND)
    loc = SourceLocation("m.py", 3, "layers.0.mlp")
    first = b.one("add", [y, x], loc=loc)
    inner = b.one("mul", [first, x], loc=loc)
    last = b.one("neg", [inner])
    outside = b.one("neg", [first])
    graph = b.finish([b.one("add", [last, outside])])
    region = make_region(graph, [0, 1, 2])
    assert region.inputs == (y, x)
    assert region.outputs == (first, last)
    assert region.scope == "layers.0.mlp"
    assert make_region(graph, [3]).scope == ""


def test_a_returned_value_is_an_output_even_if_nobody_else_reads_it() -> None:
    b = GraphBuilder("g")
    x = b.input("x", KIND)
    graph = b.finish([b.one("neg", [x])])
    assert make_region(graph, [0]).outputs == graph.outputs


def test_every_version_of_a_state_has_one_root() -> None:
    b = GraphBuilder("g")
    kv = root = b.input("kv", StateType("kv", (LayerState(1, 8, 8, DType.F32),) * 3))
    k = b.input("k", TensorType(DType.F32, (T, 1, 8)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    for layer in range(3):
        kv = b.one("kv_write", [kv, k, k, slots], {"layer": layer})
    graph = b.finish([k])
    assert all(state_root(graph, node.output) is root for node in graph.nodes)
    assert state_root(graph, root) is root
