"""The operands of a batched matrix product as matrices in memory.

before:  ``matmul``, whose operands may be views of what a region is given
after:   for each operand, strides along the batch, the rows and the columns
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Node, Value
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType

from .access import Access
from .views import View


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand as matrices of one batch.

    Attributes:
        view: where it lies.
        batch: strides along the dimensions of the batch.
        row: stride from row to row.
        column: stride from column to column.
    """

    view: View
    batch: tuple[Dim, ...]
    row: Dim
    column: Dim


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a product: of the batch, rows, columns, and what is summed over."""

    batch: tuple[Dim, ...]
    rows: Dim
    columns: Dim
    depth: Dim


def product_sizes(node: Node) -> Sizes:
    """The sizes of a ``matmul``; a vector is one row or one column."""
    a, b = map(_shape, node.inputs)
    matrix = (len(a) > 1) + (len(b) > 1)
    whole = _shape(node.output)
    return Sizes(
        whole[: len(whole) - matrix],
        a[-2] if len(a) > 1 else 1,
        b[-1] if len(b) > 1 else 1,
        a[-1],
    )


def product_operand(view: View, place: int, sizes: Sizes) -> Operand:
    """An operand's strides, along the whole batch; a vector is a row or a column."""
    access = view.access
    if len(access.shape) == 1:
        (stride,) = access.strides
        row, column = (0, stride) if place == 0 else (stride, 0)
        return Operand(view, (0,) * len(sizes.batch), row, column)
    *_, row, column = access.strides
    own = Access(access.shape[:-2], access.strides[:-2], access.offset)
    return Operand(view, own.expand(sizes.batch).strides, row, column)


def even_groups(batch: tuple[Dim, ...], strides: tuple[Dim, ...]) -> list[tuple[Dim, Dim]]:
    """Sizes and strides of the parts of a batch that are walked through evenly, outermost first."""
    groups: list[tuple[Dim, Dim]] = []
    for size, stride in zip(batch, strides, strict=True):
        if groups and groups[-1][1] == stride * size:
            groups[-1] = (groups[-1][0] * size, stride)
        elif size != 1:
            groups.append((size, stride))
    return groups


def _shape(value: Value) -> tuple[Dim, ...]:
    return value.type.shape if isinstance(value.type, TensorType) else ()
