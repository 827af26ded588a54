"""Scalar expressions as Triton: operators, functions, casts, numbers."""

from __future__ import annotations

import math

import pytest

from graphopt.codegen.rows.tree import Kind, RefusedError
from graphopt.codegen.triton.expression import Term, dim_text, literal, triton_expression
from graphopt.ir.dtype import DType
from graphopt.ir.shape import dim_max, sym

T, S = sym("T"), sym("S")


def _text(scalar: str, dtype: DType = DType.F32, kind: Kind = "float") -> str:
    operands = {"a": Term("A", kind)}
    return triton_expression(scalar, operands, dtype).text


@pytest.mark.parametrize(
    ("scalar", "text"),
    [
        ("a / (1.0 + exp(-a))", "A / (1.0 + tl.exp(-A))"),
        ("pow(a, 0.5)", "tl.sqrt(A)"),
        ("pow(a, 3.0)", "cube(A)"),
        ("tanh(a)", "libdevice.tanh(A)"),
        ("round(a)", "libdevice.rint(A)"),
        ("cast(a, bf16)", "A.to(tl.bfloat16).to(tl.float32)"),
        ("cast(a, bool)", "A != 0"),
        ("inf", 'float("inf")'),
    ],
)
def test_floats(scalar: str, text: str) -> None:
    assert _text(scalar) == text


def test_comparisons_bind_looser_than_and() -> None:
    a, b = Term("A", "float"), Term("B", "float")
    found = triton_expression("a > 0.0 and b < 1.0", {"a": a, "b": b}, DType.BOOL)
    assert found.text == "(A > 0.0) & (B < 1.0)"


def test_integers() -> None:
    assert _text("a * 3", DType.I32, "int") == "(A * 3).to(tl.int32).to(tl.int64)"
    assert _text("a * 3", DType.I64, "int") == "A * 3"
    assert _text("pow(a, 3)", DType.I64, "int") == "whole_pow(A, 3)"
    assert _text("floor_div(a, 2)", DType.I64, "int") == "whole_floor_div(A, 2)"
    with pytest.raises(RefusedError, match="powers"):
        _text("pow(a, -1)", DType.I64, "int")


def test_what_an_order_is_made_of() -> None:
    ordered = triton_expression("ordered(a)", {"a": Term("A", "float")}, DType.I64)
    assert (ordered.text, ordered.kind) == ("ordered(A)", "int")
    back = triton_expression("unordered(a)", {"a": ordered}, DType.F32)
    assert (back.text, back.kind) == ("unordered(ordered(A))", "float")


def test_bools() -> None:
    assert _text("a + a", DType.BOOL, "bool") == "A | A"
    assert _text("not a", DType.BOOL, "bool") == "A == 0"
    assert _text("cast(a, f32)", DType.F32, "bool") == "A.to(tl.float32)"


def test_numbers() -> None:
    assert literal(-math.inf, "float").text == '-float("inf")'
    assert literal(math.nan, "float").text == 'float("nan")'
    assert literal(2, "float").text == "2.0"
    assert literal(T + 1, "int").text == "(T + 1)"
    assert dim_text(2 * T * S + 3) == "2 * S * T + 3"
    assert "tl.maximum(" in dim_text(dim_max(T, 4))
