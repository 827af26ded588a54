"""What is computed where: invariant work outside, single numbers where strides demand it."""

from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from ..rows.cases import operation, whole
from .row_cases import RowCase, make_case

T = sym("T")


def _text(graph: Graph) -> str:
    case = make_case(graph, whole(graph))
    assert isinstance(case, RowCase), case
    return case.kernel.text


def test_broadcasting_keeps_dimensions_apart() -> None:
    x, w = TensorType(DType.F32, (T, 4, 16)), TensorType(DType.F32, (4, 1))
    text = _text(operation("mul", [x, w]))
    assert (
        "for (int64_t i = 0; i < 4; ++i) {\n      const float w1_weight_t = w1_weight[i];" in text
    )
    assert "load_n(x0 + t * 64 + i * 16 + j, n) * w1_weight_t" in text


def test_strides_are_single_numbers() -> None:
    x = TensorType(DType.BF16, (T, 4, 16))
    text = _text(operation("permute", [x], dims=(0, 2, 1)))
    assert (
        "permute1[t * 64 + i * 4 + j] = from_float<bf16>(to_float(x0[t * 64 + i + j * 16]));"
        in text
    )


def test_rows_may_be_inside() -> None:
    x = TensorType(DType.F32, (4, T, 16))
    text = _text(operation("neg", [x]))
    assert "load_n(x0 + t * 16 + i * (16 * step.T) + j, n)" in text
