"""Identities disappear, layout moves join, and nothing else changes."""

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.manager import PassContext
from graphopt.passes.remove_identities import RemoveIdentities

T = sym("T")


def run(graph: Graph) -> tuple[list[str], bool]:
    result = RemoveIdentities()(graph, PassContext())
    return [node.op for node in result.graph.nodes], result.modified


def test_reshapes_that_undo_each_other_vanish() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 64)))
    up = b.one("reshape", [x], {"shape": (1, T, 64)})
    down = b.one("reshape", [up], {"shape": (T, 64)})
    assert run(b.finish([b.one("neg", [down])])) == (["neg"], True)


def test_reshapes_in_a_row_become_one() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 64)))
    y = b.one("reshape", [x], {"shape": (1, T, 64)})
    y = b.one("reshape", [y], {"shape": (1, T, 4, 16)})
    y = b.one("reshape", [y], {"shape": (T * 4, 16)})
    graph = b.finish([y])
    assert run(graph) == (["reshape"], True)
    result = RemoveIdentities()(graph, PassContext()).graph
    assert result.nodes[0].attrs["shape"] == (T * 4, 16)


def test_permutes_compose() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (2, 3, 5)))
    y = b.one("permute", [x], {"dims": (2, 0, 1)})
    z = b.one("permute", [y], {"dims": (0, 2, 1)})
    result = RemoveIdentities()(b.finish([z]), PassContext()).graph
    assert [(node.op, node.attrs["dims"]) for node in result.nodes] == [("permute", (2, 1, 0))]
    back = GraphBuilder("g")
    x = back.input("x", TensorType(DType.F32, (2, 3, 5)))
    y = back.one("permute", [x], {"dims": (2, 0, 1)})
    z = back.one("permute", [y], {"dims": (1, 2, 0)})
    assert run(back.finish([back.one("neg", [z])])) == (["neg"], True)


def test_a_permute_of_equal_sizes_is_not_an_identity() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (4, 4)))
    assert run(b.finish([b.one("permute", [x], {"dims": (1, 0)})])) == (["permute"], False)


def test_casts_and_slices_that_do_nothing_vanish_and_others_stay() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, (T, 8)))
    y = b.one("cast", [x], {"dtype": DType.BF16})
    y = b.one("slice", [y], {"dim": 1, "start": 0, "end": 8, "step": 1})
    y = b.one("cast", [y], {"dtype": DType.F32})
    y = b.one("cast", [y], {"dtype": DType.BF16})
    assert run(b.finish([y])) == (["cast", "cast"], True)


def test_an_input_may_become_the_output() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T,)))
    graph = b.finish([b.one("cast", [x], {"dtype": DType.F32})])
    result = RemoveIdentities()(graph, PassContext()).graph
    assert result.outputs == (x,)
    assert not result.nodes
