"""A matrix product over one term becomes a product of elements, to the bit; no other does."""

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_outer_product import raise_outer_product

from .numbers import operators, reasons, rewritten, worst

T = sym("T")


def product(left: tuple[Dim, ...], right: tuple[Dim, ...], dtype: DType = DType.F32) -> Graph:
    b = GraphBuilder("g")
    x, y = b.input("x", TensorType(dtype, left)), b.input("y", TensorType(dtype, right))
    return b.finish([b.one("matmul", [x, y])])


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize(
    ("left", "right"),
    [((5, 1), (1, T)), ((2, 5, 1), (1, T)), ((3, T, 1), (3, 1, 4))],
)
def test_one_term(left: tuple[Dim, ...], right: tuple[Dim, ...], dtype: DType) -> None:
    before = product(left, right, dtype)
    after, _ = rewritten(before, raise_outer_product())
    assert operators(after) == ["mul"]
    assert after.outputs[0].type == before.outputs[0].type
    assert worst(before, after) == 0.0


@pytest.mark.parametrize(
    ("left", "right"), [((T, 2), (2, 4)), ((1,), (1, T)), ((T, 1), (1,)), ((T, T), (T, 3))]
)
def test_other_products_are_refused(left: tuple[Dim, ...], right: tuple[Dim, ...]) -> None:
    before = product(left, right)
    after, entries = rewritten(before, raise_outer_product())
    assert after is before
    assert "adds up several terms" in reasons(entries)


def test_a_transposition_is_taken_along() -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", TensorType(DType.F32, (5, 1))), b.input("y", TensorType(DType.F32, (1, T)))
    before = b.finish([b.one("permute", [b.one("matmul", [x, y])], {"dims": (1, 0)})])
    after, _ = rewritten(before, raise_outer_product())
    assert operators(after) == ["reshape", "reshape", "mul"]
    assert worst(before, after) == 0.0
