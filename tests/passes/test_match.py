"""Patterns match what they say, and a miss says what stopped the best try."""

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.passes.match import Attr, Match, Miss, Var, chain, either, match, maybe, op, size

X = TensorType(DType.F32, (4, 8))


def norm(*, cast: bool = False, swapped: bool = False, power: float = 2.0) -> Graph:
    """x * rsqrt(mean(x ** power) + 1e-5), with a cast before it and the factors either way."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, (4, 8)) if cast else X)
    wide = b.one("cast", [x], {"dtype": DType.F32}) if cast else x
    mean = b.one("mean", [b.one("pow", [wide], {"scalar": power})], {"dims": [1], "keepdim": True})
    root = b.one("rsqrt", [b.one("add", [mean], {"scalar": 1e-5})])
    return b.finish([b.one("mul", [root, wide] if swapped else [wide, root])])


x = Var("x")
MEAN = op.mean(op.pow(x, scalar=2.0), keepdim=True)
NORM = op.mul(x, op.rsqrt(op.add(MEAN, scalar=Attr("eps", lambda e: e > 0, "a positive number"))))


def at_end(graph: Graph, pattern=NORM) -> Match | Miss:  # type: ignore[no-untyped-def]
    return match(pattern, graph, graph.nodes[-1])


def test_values_attributes_and_nodes() -> None:
    graph = norm()
    m = at_end(graph)
    assert isinstance(m, Match)
    assert m.x is graph.inputs[0]
    assert m["eps"] == 1e-5
    assert "eps" in m
    assert "other" not in m
    assert set(m.nodes) == set(graph.nodes)
    assert m.root is graph.nodes[-1]
    assert m.used_outside() == ()


def test_operators_that_commute_match_either_way() -> None:
    assert isinstance(at_end(norm(swapped=True)), Match)


def test_a_miss_says_how_far_it_came() -> None:
    miss = at_end(norm(power=3.0))
    assert isinstance(miss, Miss)
    assert miss.reason == "pow at %0 has scalar = 3.0, not 2.0"
    assert miss.matched == 4


def test_maybe_and_either() -> None:
    inner = maybe.cast(Var("narrow"))
    wide = op.abs(inner)
    b = GraphBuilder("g")
    y = b.input("y", TensorType(DType.BF16, (4, 8)))
    graph = b.finish([b.one("abs", [b.one("cast", [y], {"dtype": DType.F32})])])
    m = match(wide, graph, graph.nodes[-1])
    assert isinstance(m, Match)
    assert m.narrow is graph.inputs[0]
    both = either(op.neg(x), op.abs(x))
    m = match(both, graph, graph.nodes[-1])
    assert isinstance(m, Match)
    assert m.x is graph.nodes[0].output
    assert size(both) == 1


def test_the_inside_that_is_used_elsewhere_is_known() -> None:
    b = GraphBuilder("g")
    y = b.input("x", X)
    inner = b.one("neg", [y])
    outer = b.one("neg", [inner])
    graph = b.finish([b.one("add", [outer, inner])])
    m = match(op.neg(op.neg(x)), graph, graph.nodes[1])
    assert isinstance(m, Match)
    assert m.used_outside() == (inner,)
    assert m.used_outside(but=[inner]) == ()


def test_a_chain_is_captured_in_running_order() -> None:
    b = GraphBuilder("g")
    y = b.input("x", X)
    graph = b.finish([b.one("sqrt", [b.one("abs", [b.one("exp", [y])])])])
    m = match(chain("work", ["sqrt", "abs"], op.exp(x)), graph, graph.nodes[-1])
    assert isinstance(m, Match)
    assert [node.op for node in m.chains["work"]] == ["abs", "sqrt"]


def test_an_output_of_a_node_with_several() -> None:
    b = GraphBuilder("g")
    y = b.input("x", X)
    top, where = b.node("topk", [y], {"k": 2})
    graph = b.finish([b.one("neg", [where]), top])
    ids = op.topk(x, k=Attr("k"))
    m = match(op.neg(ids.output(1)), graph, graph.nodes[-1])
    assert isinstance(m, Match)
    assert m["k"] == 2
    assert isinstance(match(op.neg(ids), graph, graph.nodes[-1]), Miss)


def test_one_and_true_are_different_attributes() -> None:
    graph = norm()
    assert isinstance(match(op.mean(x, keepdim=1), graph, graph.nodes[1]), Miss)
    assert isinstance(match(op.mean(x, keepdim=True), graph, graph.nodes[1]), Match)
