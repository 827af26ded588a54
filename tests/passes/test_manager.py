"""The manager runs passes in order, reports on each, and names the one that breaks the graph."""

import pytest

from graphopt.errors import CompileError, UsageError
from graphopt.ir.builder import GraphBuilder, Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import accept, refuse
from graphopt.passes.manager import (
    PassContext,
    PassResult,
    check_pipeline,
    place_of,
    run_passes,
)


class Named:
    """What the passes of these tests share."""

    name = "named"
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(graph, False)


class DoubleNegation(Named):
    """Adds a neg behind every neg."""

    name = "double"
    ensures = frozenset({"doubled"})

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        rewriter = Rewriter(graph)
        for node in graph.nodes:
            rewriter.copy(node)
            if node.op == "neg" and context.decide(self.name, place_of(node), accept("twice")):
                rewriter.replace(node.output, rewriter.one("neg", [node.output]))
        return PassResult(rewriter.finish(), True)


class Nothing(Named):
    """Changes nothing."""

    name = "nothing"
    requires = frozenset({"doubled"})


class Breaker(Named):
    """Drops the first node, whose value is still used."""

    name = "breaker"

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        broken = Graph(graph.name, graph.inputs, graph.weights, graph.nodes[1:], graph.outputs)
        return PassResult(broken, True)


class Raiser(Named):
    """Has a bug."""

    name = "raiser"

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        raise IndexError("list index out of range")


def two_nodes() -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (3,)))
    return b.finish([b.one("neg", [b.one("neg", [x])])])


def test_reports_and_stages() -> None:
    stages: list[tuple[str, int, int]] = []
    graph, reports = run_passes(
        two_nodes(),
        [DoubleNegation(), Nothing()],
        observe=lambda name, a, b: stages.append((name, len(a.nodes), len(b.nodes))),
    )
    assert len(graph.nodes) == 4
    assert stages == [("double", 2, 4), ("nothing", 4, 4)]
    rows = [(r.name, r.modified, r.rewrites, r.nodes_before, r.nodes_after) for r in reports]
    assert rows == [("double", True, 2, 2, 4), ("nothing", False, 0, 4, 4)]
    assert [(r.bytes_before, r.bytes_after) for r in reports] == [(48, 96), (96, 96)]


def test_what_is_made_of_weights_alone_moves_no_bytes() -> None:
    b = GraphBuilder("g")
    x, (q, k) = (
        b.input("x", TensorType(DType.F32, (4,))),
        [b.weight(name, TensorType(DType.F32, (3, 4))) for name in ("q", "k")],
    )
    both = b.one("concat", [q, k], {"dim": 0})
    _, (report,) = run_passes(b.finish([b.one("linear", [x, both])]), [Nothing()])
    assert report.bytes_before == (4 + 6 * 4 + 6) * 4


def test_the_pass_that_breaks_the_graph_is_named() -> None:
    with pytest.raises(CompileError, match="pass breaker broke the graph") as caught:
        run_passes(two_nodes(), [DoubleNegation(), Breaker()])
    assert "double" in (caught.value.next or "")


def test_an_error_of_another_kind_is_a_compile_error_that_names_the_pass() -> None:
    with pytest.raises(CompileError, match="pass raiser failed") as caught:
        run_passes(two_nodes(), [DoubleNegation(), Raiser()])
    assert "IndexError" in str(caught.value.got)
    assert caught.value.where == "double at %1"


@pytest.mark.parametrize("fuel", [0, 1, 2, 3])
def test_fuel_stops_after_so_many_rewrites(fuel: int) -> None:
    context = PassContext(fuel=fuel)
    graph, _ = run_passes(two_nodes(), [DoubleNegation()], context)
    assert len(graph.nodes) == 2 + min(fuel, 2)
    assert context.applied == min(fuel, 2)
    assert len(context.ledger.entries) == min(fuel, 2)


def test_a_refusal_costs_no_fuel_and_is_written_down() -> None:
    context = PassContext(fuel=1)
    assert not context.decide("rule", "here", refuse("it broadcasts", "%1"))
    assert context.decide("rule", "there", accept(), quiet=True)
    assert not context.decide("rule", "elsewhere", accept())
    assert [(e.rule, e.applied, e.reason) for e in context.ledger.entries] == [
        ("rule", False, "it broadcasts")
    ]
    assert (context.applied, context.last) == (1, "rule at there")


def test_a_disabled_pass_is_left_out() -> None:
    graph, reports = run_passes(
        two_nodes(), [DoubleNegation(), Nothing()], disabled=frozenset({"double", "nothing"})
    )
    assert len(graph.nodes) == 2
    assert reports == ()


def test_disabling_an_unknown_pass_is_refused() -> None:
    with pytest.raises(UsageError, match="no such pass"):
        run_passes(two_nodes(), [DoubleNegation()], disabled=frozenset({"dubble"}))


def test_what_a_pass_requires_must_be_ensured_before_it() -> None:
    check_pipeline([DoubleNegation(), Nothing()])
    with pytest.raises(CompileError, match="pass nothing requires"):
        check_pipeline([Nothing(), DoubleNegation()])


def test_a_pass_that_others_require_may_be_left_out() -> None:
    _, reports = run_passes(
        two_nodes(), [DoubleNegation(), Nothing()], disabled=frozenset({"double"})
    )
    assert [report.name for report in reports] == ["nothing"]


def test_costs_are_compared_with_every_size_at_one() -> None:
    b = GraphBuilder("two_sizes")
    x = b.input("x", TensorType(DType.F32, (sym("T"), sym("n1"))))
    _, (report,) = run_passes(b.finish([b.one("relu", [x])]), [DoubleNegation()])
    assert (report.bytes_before, report.bytes_after) == (8, 8)
