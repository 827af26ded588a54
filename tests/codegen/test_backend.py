"""The first backend that claims a region gets it, and every answer is in the ledger."""

import pytest

from graphopt.codegen.backend import Backend, assign
from graphopt.codegen.torch import TorchBackend
from graphopt.errors import CompileError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.ledger import Ledger, Verdict, accept, refuse
from graphopt.region import Region, make_region


class OnlyCosine:
    """Claims cosines."""

    name = "cosine"

    def claims(self, graph: Graph, region: Region) -> Verdict:
        op = graph.nodes[region.nodes[0]].op
        return accept() if op == "cos" else refuse("not a cosine", op)

    def emit(self, graph: Graph, region: Region) -> str:
        return "cosine-kernel"


def chain() -> tuple[Graph, list[Region]]:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (3,)))
    graph = b.finish([b.one("neg", [b.one("cos", [x])])])
    return graph, [make_region(graph, [place]) for place in (0, 1)]


def test_backends_are_asked_in_order() -> None:
    graph, regions = chain()
    ledger = Ledger()
    backends: list[Backend] = [OnlyCosine(), TorchBackend()]
    assert assign(graph, regions, backends, ledger) == (
        ("cosine", "cosine-kernel"),
        ("torch", "neg"),
    )
    rows = [(entry.rule, entry.applied) for entry in ledger.entries]
    assert rows == [
        ("backend:cosine", True),
        ("backend:cosine", False),
        ("backend:torch", True),
    ]
    assert ledger.entries[1].reason == "not a cosine"


def test_a_region_that_nobody_claims_is_an_error() -> None:
    graph, regions = chain()
    with pytest.raises(CompileError, match="no backend") as caught:
        assign(graph, regions, [OnlyCosine()], Ledger())
    assert caught.value.got == "neg"
