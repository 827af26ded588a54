"""The manager runs passes in order, reports on each, and names the one that breaks the graph."""

import pytest

from graphopt.errors import CompileError
from graphopt.ir.builder import GraphBuilder, Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.ledger import Ledger
from graphopt.passes.manager import PassResult, run_passes


class DoubleNegation:
    """Adds a neg behind every neg."""

    name = "double"

    def __call__(self, graph: Graph, ledger: Ledger) -> PassResult:
        rewriter = Rewriter(graph)
        for node in graph.nodes:
            rewriter.copy(node)
            if node.op == "neg":
                rewriter.replace(node.output, rewriter.one("neg", [node.output]))
        return PassResult(rewriter.finish(), True)


class Nothing:
    """Changes nothing."""

    name = "nothing"

    def __call__(self, graph: Graph, ledger: Ledger) -> PassResult:
        return PassResult(graph, False)


class Breaker:
    """Drops the first node, whose value is still used."""

    name = "breaker"

    def __call__(self, graph: Graph, ledger: Ledger) -> PassResult:
        broken = Graph(graph.name, graph.inputs, graph.weights, graph.nodes[1:], graph.outputs)
        return PassResult(broken, True)


def two_nodes() -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (3,)))
    return b.finish([b.one("neg", [b.one("neg", [x])])])


def test_reports_and_stages() -> None:
    stages: list[tuple[str, int]] = []
    graph, reports = run_passes(
        two_nodes(),
        [DoubleNegation(), Nothing()],
        Ledger(),
        lambda name, stage: stages.append((name, len(stage.nodes))),
    )
    assert len(graph.nodes) == 4
    assert stages == [("double", 4), ("nothing", 4)]
    rows = [(r.name, r.modified, r.nodes_before, r.nodes_after) for r in reports]
    assert rows == [("double", True, 2, 4), ("nothing", False, 4, 4)]


def test_the_pass_that_breaks_the_graph_is_named() -> None:
    with pytest.raises(CompileError, match="pass breaker broke the graph") as caught:
        run_passes(two_nodes(), [DoubleNegation(), Breaker()], Ledger())
    assert "double" in (caught.value.next or "")
