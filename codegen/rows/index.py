"""Lowering of reads at an index: addresses with a term that is itself loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import float_of, int_of
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType

from .access import Access
from .lower import Lower, Lowering, type_of
from .pointwise import apply
from .shape import Place, narrow
from .tree import Assembly, Leaf, Number, RefusedError, Tree, map_view


def _embed(lowering: Lowering, node: Node) -> Sequence[Tree]:
    ids, table = node.inputs
    shape = type_of(node.output).shape
    index = lowering.tree(ids)
    leaf = lowering.source(table)
    row, column = leaf.access.strides
    wide = map_view(index, lambda access: _with_last(access, shape[-1]))
    if wide is None:
        raise RefusedError("the ids have no such view", node)
    strides = (*(0 for _ in shape[:-1]), column)
    tree = Leaf(leaf.buffer, Access(shape, strides, leaf.access.offset), ((wide, row),))
    return (scaled(tree, node),)


def _quantized_embed(lowering: Lowering, node: Node) -> Sequence[Tree | Assembly]:
    """Whole groups of columns, and the columns of a last one that is narrower."""
    *outer, columns = type_of(node.output).shape
    if not isinstance(columns, int):
        raise RefusedError("the table has no fixed size", node)
    group, last = int_of(node.attrs, "group"), len(outer)
    rest = columns % group
    parts: list[tuple[Place, Tree]] = []
    for first, count, size in ((0, columns // group, group), (columns - rest, 1, rest)):
        if count and size:
            rows = scaled(_dequantized(lowering, node, first // group, count, size), node)
            parts.append((narrow(last, first, count * size), rows))
    return (parts[0][1] if len(parts) == 1 else Assembly(tuple(parts)),)


def scaled(tree: Tree, node: Node) -> Tree:
    """Rows of a table as its node wants them."""
    scale = float_of(node.attrs, "scale")
    if scale == 1.0:
        return tree
    return apply("a * b", tree, Number(scale, "float"), dtype=type_of(node.output).dtype)


def _dequantized(lowering: Lowering, node: Node, first: int, count: int, size: int) -> Tree:
    """Some groups of rows of integers times their scales, in memory.

    Args:
        lowering: what is known.
        node: the embedding.
        first: the first group.
        count: how many groups.
        size: columns that are taken of each.
    """
    type_, group = type_of(node.output), int_of(node.attrs, "group")
    outer = type_.shape[:-1]
    shape = (*outer, count, size)
    index = map_view(
        lowering.tree(node.inputs[0]),
        lambda access: _with_last(_with_last(access, count), size),
    )
    if index is None:
        raise RefusedError("the ids have no such view", node)

    def rows(position: int, strides: tuple[Dim, Dim]) -> Leaf:
        leaf = lowering.source(node.inputs[position])
        (row, column), still = leaf.access.strides, (0 for _ in outer)
        steps = (*still, strides[0] * column, strides[1] * column)
        start = leaf.access.offset + first * strides[0] * column
        return Leaf(leaf.buffer, Access(shape, steps, start), ((index, row),))

    tree = apply("cast(a, f32) * b", rows(1, (group, 1)), rows(2, (1, 0)))
    split = lowering.at_hand(tree, TensorType(DType.F32, shape), node.output, "embed")
    whole = map_view(split, lambda access: access.reshape((*outer, count * size)))
    if whole is None:
        raise RefusedError("the rows have no such view", node)
    return whole


def _with_last(access: Access, size: Dim) -> Access:
    return Access((*access.shape, size), (*access.strides, 0), access.offset)


def _index_select(lowering: Lowering, node: Node) -> Sequence[Tree]:
    dim, shape = int_of(node.attrs, "dim"), type_of(node.output).shape
    leaf = lowering.source(node.inputs[0])

    def along(access: Access) -> Access:
        strides: list[Dim] = [0 for _ in shape]
        strides[dim] = access.strides[0]
        return Access(shape, tuple(strides), access.offset)

    index = map_view(lowering.tree(node.inputs[1]), along)
    return (_indexed(leaf, dim, shape, index, node),)


def _gather(lowering: Lowering, node: Node) -> Sequence[Tree]:
    dim, shape = int_of(node.attrs, "dim"), type_of(node.output).shape
    leaf = lowering.source(node.inputs[0])
    return (_indexed(leaf, dim, shape, lowering.tree(node.inputs[1]), node),)


def _indexed(leaf: Leaf, dim: int, shape: tuple[Dim, ...], index: Tree | None, node: Node) -> Tree:
    if index is None:
        raise RefusedError("the index has no such view", node)
    access = leaf.access
    strides = (*access.strides[:dim], 0, *access.strides[dim + 1 :])
    return Leaf(leaf.buffer, Access(shape, strides, access.offset), ((index, access.strides[dim]),))


TABLE: Mapping[str, Lower] = {
    "embed": _embed,
    "quantized_embed": _quantized_embed,
    "index_select": _index_select,
    "gather": _gather,
}
