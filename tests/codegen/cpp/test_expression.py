"""Scalar expressions in C++, on single numbers and on vectors."""

from __future__ import annotations

import math

import pytest

from graphopt.codegen.cpp.expression import (
    NotVectorError,
    Term,
    cpp_expression,
    dim_text,
    float_literal,
)
from graphopt.ir.dtype import DType
from graphopt.ir.ops_scalar import scalar_expression
from graphopt.ir.shape import dim_max, sym

T = sym("T")
X, Y = Term("x", "float"), Term("y", "float")
V, W = (Term(name, "float", vector=True) for name in "vw")
N, B, M = Term("i", "int"), Term("b", "bool"), Term("m", "bool", vector=True)


@pytest.mark.parametrize(
    ("scalar", "operands", "dtype", "text"),
    [
        ("a + b * a", (X, Y), DType.F32, "x + y * x"),
        ("(a + b) * a", (X, Y), DType.F32, "(x + y) * x"),
        ("a - (b - a)", (X, Y), DType.F32, "x - (y - x)"),
        ("a / (1.0 + exp(-a))", (V,), DType.BF16, "v / (1.0f + exp(-v))"),
        ("where(a > 0, 1, where(a < 0, -1, 0))", (X,), DType.F32,
         "(x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : 0.0f))"),
        ("maximum(a, 0)", (V,), DType.F32, "maximum(v, splat(0.0f))"),
        ("where(a, b, c)", (M, V, Y), DType.F32, "select(m, v, splat(y))"),
        ("where(a, b, c)", (B, V, W), DType.F32, "(b ? v : w)"),
        ("a == 0", (B,), DType.BOOL, "!b"),
        ("a == 0", (M,), DType.BOOL, "opposite(m)"),
        ("a + b", (B, B), DType.BOOL, "b || b"),
        ("a * b", (M, M), DType.BOOL, "m & m"),
        ("a + 300", (N,), DType.I8, "int64_t(int8_t(i + int64_t(300)))"),
        ("floor(a)", (N,), DType.I64, "i"),
        ("pow(a, 2.0)", (V,), DType.F32, "square(v)"),
        ("pow(a, 2.5)", (V,), DType.F32, "pow(v, splat(2.5f))"),
        ("cast(a, bf16)", (V,), DType.BF16, "rounded<bf16>(v)"),
        ("cast(a, i64)", (X,), DType.I64, "int64_t(x)"),
        ("cast(a, bool)", (V,), DType.BOOL, "v != zeros()"),
        ("a * size('T + 1')", (X,), DType.F32, "x * float(step.T + 1)"),
        ("a * inf", (X,), DType.F32, "x * INF"),
    ],
)  # fmt: skip
def test_text(scalar: str, operands: tuple[Term, ...], dtype: DType, text: str) -> None:
    names = dict(zip("abc", operands, strict=False))
    assert cpp_expression(scalar, names, dtype).text == text


def test_every_gelu_has_a_text() -> None:
    for approximate in ("none", "tanh", "sigmoid"):
        scalar = scalar_expression("gelu", {"approximate": approximate})
        found = cpp_expression(scalar, {"a": V}, DType.F32)
        assert found.vector
        assert "erf(" in found.text or "exp(" in found.text or "tanh(" in found.text


@pytest.mark.parametrize(
    ("scalar", "operands"), [("a + b", (V, N)), ("a < b", (M, M)), ("cast(a, i64)", (V,))]
)
def test_what_is_not_computed_on_vectors(scalar: str, operands: tuple[Term, ...]) -> None:
    with pytest.raises(NotVectorError):
        cpp_expression(scalar, dict(zip("abc", operands, strict=False)), DType.F32)


def test_literals() -> None:
    assert float_literal(0.1) == "0.1f"
    assert float_literal(-math.inf) == "-INF"
    assert float_literal(1e300) == "INF"
    assert float_literal(math.nan) == "NOT_A_NUMBER"


def test_sizes() -> None:
    assert dim_text(7) == "7"
    assert dim_text(T * 4 + 2) == "4 * step.T + 2"
    assert dim_text((T + 1) // 2) == "floor_div(int64_t(step.T + 1), int64_t(2))"
    assert dim_text(dim_max(T, 3)) == "std::max({int64_t(step.T), int64_t(3)})"
