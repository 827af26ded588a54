from __future__ import annotations

import pytest

from graphopt.errors import IRError
from graphopt.ir.bind import bind_sizes
from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType

T, S, R = sym("T"), sym("S"), sym("R")


def of(*shape: Dim) -> TensorType:
    return TensorType(DType.I64, shape)


def test_symbols_are_told_by_sizes() -> None:
    assert bind_sizes([("a", of(T, 3), (5, 3)), ("b", of(S + 1), (3,))]) == {"T": 5, "S": 2}
    assert bind_sizes([("a", of(2 * T - 1), (7,))]) == {"T": 4}


def test_one_symbol_helps_to_tell_another() -> None:
    shapes = [("a", of(T * S + R), (13,)), ("b", of(T), (5,)), ("c", of(S), (2,))]
    assert bind_sizes(shapes) == {"T": 5, "S": 2, "R": 3}


@pytest.mark.parametrize(
    ("type_", "shape"),
    [(of(T, T), (2, 3)), (of(T, 3), (2, 4)), (of(T), (2, 2)), (of(S + 1), (0,)), (of(2 * T), (3,))],
)
def test_shapes_that_do_not_fit(type_: TensorType, shape: tuple[int, ...]) -> None:
    with pytest.raises(IRError) as caught:
        bind_sizes([("ids", type_, shape)])
    assert caught.value.where == "input ids"


def test_a_size_that_nothing_tells() -> None:
    with pytest.raises(IRError, match="no input tells the size S"):
        bind_sizes([("a", of(T // S), (2,)), ("b", of(T), (4,))])
