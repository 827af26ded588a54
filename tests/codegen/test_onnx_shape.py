from __future__ import annotations

import pytest

from graphopt.codegen.onnx_export import export_function
from graphopt.codegen.onnx_shape import SHAPE
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from tests.codegen.onnx_samples import check


@pytest.mark.parametrize("op", sorted(SHAPE))
def test_the_standard_computes_the_same(op: str) -> None:
    for seed in range(5):
        check(op, seed)


def test_one_size_that_is_not_known_needs_no_arithmetic() -> None:
    builder = GraphBuilder("split")
    x = builder.input("x", TensorType(DType.F32, (sym("T"), 12)))
    graph = builder.finish([builder.one("reshape", [x], {"shape": (sym("T"), 3, 4)})])
    model = export_function(graph, {})
    assert [node.op_type for node in model.proto.graph.node] == ["Shape", "Reshape", "Identity"]
