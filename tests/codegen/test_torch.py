"""PyTorch takes everything, and says for what it was needed."""

from graphopt.codegen.torch import TorchBackend
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.types import TensorType
from graphopt.region import make_region


def test_it_claims_everything_and_names_the_operators() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (3,)))
    graph = b.finish([b.one("neg", [b.one("cos", [x])])])
    region = make_region(graph, [0, 1])
    verdict = TorchBackend().claims(graph, region)
    assert verdict.accepted
    assert "cos, neg" in verdict.reason
    assert TorchBackend().emit(graph, region) == "cos+neg"
