from __future__ import annotations

import pytest

from graphopt.codegen.onnx_export import export_function
from graphopt.codegen.onnx_layers import LAYERS
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from tests.codegen.onnx_samples import check


@pytest.mark.parametrize("op", sorted(LAYERS))
def test_the_standard_computes_the_same(op: str) -> None:
    for seed in range(5):
        check(op, seed)


def test_norms_and_rotation_are_operators_of_the_standard() -> None:
    builder = GraphBuilder("layer")
    x = builder.input("x", TensorType(DType.F32, (sym("T"), 2, 8)))
    angles = [builder.input(name, TensorType(DType.F32, (sym("T"), 3))) for name in ("cos", "sin")]
    weight = builder.weight("norm", TensorType(DType.F32, (8,)))
    normed = builder.one("rms_norm", [x, weight], {"eps": 1e-6})
    graph = builder.finish([builder.one("rope", [normed, *angles], {"interleaved": True})])
    nodes = {node.op_type: node for node in export_function(graph, {}).proto.graph.node}
    assert "RMSNormalization" in nodes
    rotary = {attr.name: attr.i for attr in nodes["RotaryEmbedding"].attribute}
    assert rotary == {"num_heads": 2, "rotary_embedding_dim": 6, "interleaved": 1}
