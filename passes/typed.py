"""What the type of a value says, also of a state, which has neither sizes nor an element type."""

from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType


def shape_of(value: Value) -> tuple[Dim, ...]:
    """The sizes of a tensor; none of a state."""
    return value.type.shape if isinstance(value.type, TensorType) else ()


def dtype_of(value: Value) -> DType | None:
    """The element type of a tensor; None of a state."""
    return value.type.dtype if isinstance(value.type, TensorType) else None


def last_size(value: Value) -> Dim:
    """The last size of a tensor; 0 where there is none."""
    shape = shape_of(value)
    return shape[-1] if shape else 0
