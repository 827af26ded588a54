from __future__ import annotations

import numpy as np
import pytest

from graphopt.frontend.onnx_known import (
    BINARY,
    COMPARISONS,
    UNARY,
    Known,
    Undecided,
    cast,
    each,
    equal,
    joined,
    less,
)
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym

N = sym("N")


def ints(*elements: object) -> Known:
    return Known.of(list(elements), DType.I64)


def test_arithmetic_on_sizes() -> None:
    result = each(BINARY["Mul"], ints(N, 3), ints(2, 4), dtype=DType.I64)
    assert result.dims() == (2 * N, 12)
    assert each(BINARY["Div"], ints(4 * N), ints(2), dtype=DType.I64).dims() == (2 * N,)
    assert not result.numbers


def test_whole_numbers_divide_towards_zero() -> None:
    assert each(BINARY["Div"], ints(-7, 7), ints(2, -2), dtype=DType.I64).dims() == (-3, -3)


def test_what_is_surely_so_is_decided() -> None:
    assert equal(N, N)
    assert not equal(N, -1)
    assert less(-1, N)
    assert not less(N + 5, 3)
    with pytest.raises(Undecided):
        equal(N, 1)
    with pytest.raises(Undecided):
        less(N, 3)


@pytest.mark.parametrize(
    ("op", "operands"),
    [
        ("Div", (ints(1), ints(0))),
        ("Mod", (ints(N), ints(0))),
        ("Pow", (ints(N), ints(2))),
        ("Pow", (ints(2), ints(1 << 20))),
        ("Mul", (ints(N), Known.of([0.5], DType.F32))),
        ("Add", (ints(1, 2), ints(1, 2, 3))),
        ("Max", (ints(N), Known.of([0.5], DType.F32))),
    ],
)
def test_what_has_no_answer(op: str, operands: tuple[Known, Known]) -> None:
    with pytest.raises(Undecided):
        each(BINARY[op], *operands, dtype=DType.I64)


def test_comparisons_and_logic() -> None:
    found = each(COMPARISONS["GreaterOrEqual"], ints(N, 2), ints(0, 3), dtype=DType.BOOL)
    assert found.array.tolist() == [True, False]
    assert each(COMPARISONS["And"], ints(1, 0), ints(1, 1), dtype=DType.BOOL).array.tolist() == [
        True,
        False,
    ]


def test_roots_of_what_has_none() -> None:
    for op, element in (("Sqrt", -1.0), ("Reciprocal", 0.0), ("Sqrt", N)):
        with pytest.raises(Undecided):
            each(UNARY[op], Known.of([element], DType.F32), dtype=DType.F32)


def test_casts() -> None:
    assert cast(ints(N, 2), DType.I32).dims() == (N, 2)
    assert cast(Known.of([2.7, -2.7], DType.F32), DType.I64).dims() == (2, -2)
    with pytest.raises(Undecided):
        cast(ints(N), DType.F32)


def test_shapes_of_arrays_are_kept() -> None:
    known = Known.of(np.arange(6).reshape(2, 3), DType.I64)
    assert known.array.shape == (2, 3)
    assert joined([known, known], 0).array.shape == (4, 3)
    assert Known.of([], DType.I64).array.shape == (0,)
    assert Known.of(5, DType.I64).array.shape == ()
