"""Regions cover every node exactly once, in order."""

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.types import TensorType
from graphopt.passes.regions import form_regions


def test_every_node_is_in_one_region() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (3,)))
    graph = b.finish([b.one("neg", [b.one("cos", [x])])])
    regions = form_regions(graph)
    assert [place for region in regions for place in region.nodes] == [0, 1]
