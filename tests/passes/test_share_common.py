"""Equal computations are done once; computations that only look equal are not."""

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.manager import PassContext
from graphopt.passes.share_common import ShareCommon

T = sym("T")
F32 = TensorType(DType.F32, (T, 8))


def shared(graph: Graph) -> Graph:
    return ShareCommon()(graph, PassContext()).graph


def test_equal_chains_are_shared() -> None:
    b = GraphBuilder("g")
    x = b.input("x", F32)
    first = b.one("neg", [b.one("cos", [x])])
    second = b.one("neg", [b.one("cos", [x])])
    graph = shared(b.finish([b.one("add", [first, second])]))
    assert [node.op for node in graph.nodes] == ["cos", "neg", "add"]
    assert graph.nodes[2].inputs[0] is graph.nodes[2].inputs[1]


def test_other_inputs_or_attributes_are_not_shared() -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", F32), b.input("y", F32)
    values = [
        b.one("sub", [x, y]),
        b.one("sub", [y, x]),
        b.one("mul", [x], {"scalar": 0.0}),
        b.one("mul", [x], {"scalar": -0.0}),
        b.one("sum", [x], {"dims": (1,), "keepdim": True}),
        b.one("mean", [x], {"dims": (1,), "keepdim": True}),
    ]
    graph = b.finish(values)
    assert shared(graph) is graph


def test_several_outputs_are_shared_together() -> None:
    b = GraphBuilder("g")
    x = b.input("x", F32)
    a, _ = b.node("topk", [x], {"k": 2, "dim": 1, "largest": True, "sorted": True})
    _, i = b.node("topk", [x], {"k": 2, "dim": 1, "largest": True, "sorted": True})
    graph = shared(b.finish([a, i]))
    assert len(graph.nodes) == 1
    assert graph.outputs == graph.nodes[0].outputs


def test_writes_of_state_are_never_shared() -> None:
    b = GraphBuilder("g")
    kv = b.input("kv", StateType("kv", (LayerState(1, 8, 8, DType.F32),) * 2))
    k = b.input("k", TensorType(DType.F32, (T, 1, 8)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    kv = b.one("kv_write", [kv, k, k, slots], {"layer": 0})
    kv = b.one("kv_write", [kv, k, k, slots], {"layer": 1})
    graph = b.finish([b.one("neg", [k])])
    assert [node.op for node in shared(graph).nodes] == ["kv_write", "kv_write", "neg"]
