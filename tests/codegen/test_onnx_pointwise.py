from __future__ import annotations

import pytest
import torch

from graphopt.codegen.onnx_export import export_function
from graphopt.codegen.onnx_pointwise import POINTWISE
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.types import TensorType
from tests.codegen.onnx_run import run_reference, with_weights
from tests.codegen.onnx_samples import check


@pytest.mark.parametrize("op", sorted(POINTWISE))
def test_the_standard_computes_the_same(op: str) -> None:
    for seed in range(4):
        check(op, seed)


@pytest.mark.parametrize("op", ["remainder", "floor_div"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_division_rounds_down_whatever_the_signs(op: str, dtype: torch.dtype) -> None:
    a = torch.tensor([7, -7, 7, -7, 6, -6], dtype=dtype)
    b = torch.tensor([3, 3, -3, -3, 3, -3], dtype=dtype)
    builder = GraphBuilder("divide")
    type_ = TensorType(DType.from_torch_name(str(dtype)), (6,))
    x, y = builder.input("x", type_), builder.input("y", type_)
    graph = builder.finish([builder.one(op, [x, y])])
    [got] = run_reference(with_weights(export_function(graph, {}), {}), graph, {"x": a, "y": b})
    wanted = torch.remainder(a, b) if op == "remainder" else torch.floor_divide(a, b)
    assert torch.equal(got, wanted)


def test_a_number_beside_a_narrow_tensor_keeps_its_digits() -> None:
    builder = GraphBuilder("scaled")
    x = builder.input("x", TensorType(DType.BF16, (64,)))
    graph = builder.finish([builder.one("mul", [x], {"scalar": 1.00390625001})])
    values = torch.linspace(-3, 3, 64).to(torch.bfloat16)
    [got] = run_reference(with_weights(export_function(graph, {}), {}), graph, {"x": values})
    assert torch.equal(got, values * 1.00390625001)
