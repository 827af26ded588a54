"""Every pointwise operator on every element type that kernels compute with, and what makes data."""

from __future__ import annotations

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from ..cpp.row_cases import EVERY_ISA, cases_of, check_all
from .cases import chain
from .pointwise_graphs import casts_and_mixtures, creation, floats, integers_and_bools

F32, BF16 = DType.F32, DType.BF16


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_floats(isa: str) -> None:
    check_all(floats(), isa)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_integers_and_bools(isa: str) -> None:
    check_all(integers_and_bools(), isa)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_casts_and_mixtures(isa: str) -> None:
    check_all(casts_and_mixtures(), isa)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_creation(isa: str) -> None:
    check_all(creation(), isa)


def test_rounding_is_where_a_cast_says_so() -> None:
    graph = chain(
        [TensorType(F32, (sym("T"), 16))],
        lambda b, x: [b.one("cast", [b.one("cast", x, {"dtype": BF16})], {"dtype": F32})],
    )
    (case,) = cases_of([graph])
    assert "rounded<bf16>(load_n(x0" in case.kernel.text
