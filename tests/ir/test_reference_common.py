from __future__ import annotations

import pytest
import torch

from graphopt.ir.dtype import DType
from graphopt.ir.reference_common import late_number, late_sizes, torch_dtype, wide_dtype
from graphopt.ir.shape import sym

T = sym("T")


def test_sizes_are_evaluated_as_late_as_needed() -> None:
    fixed = late_sizes((2, 3))
    assert fixed({}) == [2, 3]
    assert fixed({}) is fixed({})
    assert late_sizes((2, T + 1))({"T": 4}) == [2, 5]


def test_numbers() -> None:
    assert late_number(T * 2)({"T": 4}) == 8
    assert late_number(0.5)({}) == 0.5
    assert late_number(True)({}) is True


@pytest.mark.parametrize("dtype", list(DType))
def test_element_types(dtype: DType) -> None:
    assert str(torch_dtype(dtype)) == f"torch.{dtype.torch_name}"


def test_sums_are_kept_in_f32_or_f64() -> None:
    assert wide_dtype(torch.bfloat16) == wide_dtype(torch.float32) == torch.float32
    assert wide_dtype(torch.float64) == torch.float64
