"""What is allowed is the floor of the type, or twice what rounding does."""

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.tolerance import FLOORS, allowed


@pytest.mark.parametrize("dtype", list(FLOORS))
def test_floor_or_rounding(dtype: DType) -> None:
    assert allowed(dtype, 0.0) == FLOORS[dtype]
    assert allowed(dtype, FLOORS[dtype]) == 2 * FLOORS[dtype]


def test_a_type_without_a_floor_is_exact() -> None:
    assert allowed(DType.I64, 0.0) == 0.0


def test_nan_is_not_forgiven() -> None:
    assert not (float("nan") <= allowed(DType.BF16, 0.01))
