"""Rows of a table in few bits as trees: integers times the scales of their groups.

before:  ``quantized_embed`` of a table that lies row after row, or in chunks for products
after:   loads at computed places; a half of each byte where the table has 4 bits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.gpu_packing import CHUNK_ROWS, FOUR_OFFSET, GpuPacking
from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import int_of

from ..rows import index
from ..rows.access import Access, contiguous
from ..rows.lower import Lower, Lowering, type_of
from ..rows.places import at, computed, position, same, whole
from ..rows.pointwise import apply
from ..rows.tree import Leaf, Number, RefusedError, Tree, map_view
from .tile_lower import TileLowering


def _quantized_embed(lowering: Lowering, node: Node) -> Sequence[Tree]:
    """Rows of integers times the scales of their groups."""
    new = type_of(node.output).shape
    row = map_view(
        lowering.tree(node.inputs[0]),
        lambda access: Access(new, (*access.strides, 0), access.offset),
    )
    if row is None:
        raise RefusedError("the ids have no such view", node)
    packings = lowering.packings if isinstance(lowering, TileLowering) else {}
    table = node.inputs[1]
    packing = packings.get(table.name) if table.is_weight else None
    read = (
        _in_rows(lowering, node, row)
        if packing is None
        else _in_chunks(lowering, node, row, packing)
    )
    return (index.scaled(apply("cast(a, f32) * b", *read), node),)


def _in_rows(lowering: Lowering, node: Node, row: Tree) -> tuple[Tree, Tree]:
    """A number and its scale, of tables that lie row after row."""
    new, group = type_of(node.output).shape, int_of(node.attrs, "group")
    integers, scales = (lowering.tree(value) for value in node.inputs[1:])
    last = len(new) - 1
    part = computed(new, whole("floor_div(a, b)", position(new, last), group))
    number = at(integers, [computed(new, row), same(new)[last]])
    return number, at(scales, [computed(new, row), part])


def _in_chunks(lowering: Lowering, node: Node, row: Tree, packing: GpuPacking) -> tuple[Tree, Tree]:
    """A number and its scale, of tables that lie in chunks; ``graphopt.gpu_packing`` says where."""
    if len(packing.parts) > 1:
        raise RefusedError("the table is packed in a way that gives no rows", node.inputs[1])
    new, depth = type_of(node.output).shape, packing.depth * packing.halves
    bytes_, scales = (
        Leaf(lowering.source(value).buffer, contiguous(one.shape))
        for value, one in zip(node.inputs[1:], (packing, packing.scales), strict=True)
    )
    column = position(new, len(new) - 1)
    chunk = computed(new, whole("floor_div(a, b)", row, CHUNK_ROWS))
    inside = computed(new, whole("remainder(a, b)", row, CHUNK_ROWS))
    step = computed(new, whole("floor_div(a, b)", column, depth))
    place = computed(new, whole("remainder(a, b)", column, packing.depth))
    number = at(bytes_, [chunk, step, inside, place])
    half: Tree = Number(0, "int")
    if packing.halves == 2:
        half = whole("remainder(a, b)", whole("floor_div(a, b)", column, packing.depth), 2)
        high = whole("floor_div(a, 16)", number)
        number = whole(f"(where(a == 0, b, c) & 15) - {FOUR_OFFSET}", half, number, high)
    first = computed(new, Number(0, "int"))
    group = [first, first] if packing.is_whole else [step, computed(new, half)]
    return number, at(scales, [chunk, *group, inside])


TABLE: Mapping[str, Lower] = {"quantized_embed": _quantized_embed}
