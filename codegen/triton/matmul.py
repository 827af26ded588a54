"""Batched matrix products in Triton.

before:  a region with one ``matmul``, and views of what it multiplies
after:   a kernel that reads both operands where they lie, through strides
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node
from graphopt.ir.shape import Dim, product, sym, symbols
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..render import render
from ..rows.arguments import arguments
from ..rows.names import Names
from ..rows.product import Operand, Sizes, even_groups, product_operand, product_sizes
from ..rows.program import comment
from ..rows.tree import Buffer
from ..rows.views import view_of
from .expression import TYPES, dim_text
from .kernel import TritonKernel, Variant, named_kernel
from .rows import buffer_of, sizes_of
from .tile_scope import power_of_two

_FLOATS = (DType.F32, DType.BF16, DType.F16)
# What the template calls things.
_TAKEN = (
    "b tile row_tiles column_tiles row column depth line left_at right_at total whole_depth whole "
    "step in_depth inside left_tile right_tile y_at load_tile"
)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows and columns of a program, what is summed at a time, and for how many rows at most."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    most: int | None = None


# 64 rows for each four warps are what tensor cores of sm_90 take at once.
_TILES = (
    _Tile(16, 64, 64, 4, 4, most=16),
    _Tile(64, 64, 64, 4, 4, most=512),
    _Tile(128, 128, 64, 8, 3),
)
_F32_TILES = (_Tile(16, 32, 32, 4, 2, most=16), _Tile(32, 32, 32, 4, 2))


def matmul_kernel(graph: Graph, region: Region) -> TritonKernel | Verdict:
    """The kernel of a matmul region, or why there is none."""
    nodes = [graph.nodes[place] for place in region.nodes]
    node = next(node for node in nodes if node.op == "matmul")
    if region.outputs != (node.output,):
        return refuse("it gives something else than the product", *region.outputs)
    type_ = node.output.type
    if not isinstance(type_, TensorType) or type_.dtype not in _FLOATS:
        return refuse(f"no product is computed in {type_}", node.output)
    sizes = product_sizes(node)
    operands: list[Operand] = []
    for place, value in enumerate(node.inputs):
        view = view_of(graph, region, value)
        if view is None:
            return refuse("strides cannot say where an operand lies", value)
        operands.append(product_operand(view, place, sizes))
    return _kernel(graph, region, node, sizes, operands, type_.dtype)


def _kernel(
    graph: Graph,
    region: Region,
    node: Node,
    sizes: Sizes,
    operands: Sequence[Operand],
    dtype: DType,
) -> TritonKernel:
    names = Names(graph)
    for word in _TAKEN.split():
        names.fresh(word, number=False)
    given = arguments(graph, region)
    buffers = {one: buffer_of(one, names) for one in given}
    known = {one.value: buffer for one, buffer in buffers.items()}
    left, right = operands
    counts = sizes_of(graph, region)
    text = render(
        "triton/matmul.jinja",
        title=f"{region.name or region.family} of {region.scope or 'the model'}",
        comments=[
            line for place in region.nodes for line in comment(names.line(graph.nodes[place]), "#")
        ],
        arguments=[*(buffer.name for buffer in buffers.values()), *counts],
        count=dim_text(product(sizes.batch)),
        rows=_factor(sizes.rows),
        columns=_factor(sizes.columns),
        depth=_factor(sizes.depth),
        fixed=isinstance(sizes.columns, int) and isinstance(sizes.depth, int),
        left=_matrix(known[left.view.operand], left, sizes.batch),
        left_row=_times("line", left.row),
        left_depth=_times("depth", left.column),
        left_step=_times("DEPTH", left.column),
        right=_matrix(known[right.view.operand], right, sizes.batch),
        right_depth=_times(_long("depth", right.row), right.row),
        right_column=_times(_long("column", right.column), right.column),
        right_step=_times("DEPTH", right.row),
        y=known[node.output].name,
        y_row=_factor(sizes.columns),
        matrix=dim_text(sizes.rows * sizes.columns),
        dtype=TYPES[dtype],
    )
    return named_kernel(
        region.name or region.family,
        text,
        [buffer.dtype for buffer in buffers.values()],
        counts,
        _variants(sizes, dtype),
    )


# ---- Text ---------------------------------------------------------------------------------------


def _matrix(buffer: Buffer, operand: Operand, batch: tuple[Dim, ...]) -> str:
    """Where the matrix of number ``b`` begins."""
    offset = operand.view.access.offset
    terms = [] if offset == 0 else [dim_text(offset)]
    inner: Dim = 1
    groups = even_groups(batch, operand.batch)
    for place, (size, stride) in reversed(list(enumerate(groups))):
        index = "b" if inner == 1 else f"b // {_factor(inner)}"
        if place:
            index = f"{index} % {_factor(size)}"
        if stride != 0:
            terms.append(_times(index, stride))
        inner = inner * size
    return " + ".join([buffer.name, *([f"({' + '.join(terms)})"] if terms else [])])


def _long(name: str, stride: Dim) -> str:
    """An index whose product with a stride may need 64 bits."""
    return name if isinstance(stride, int) and stride < 1 << 16 else f"{name}.to(tl.int64)"


def _times(name: str, size: Dim) -> str:
    return name if size == 1 else f"{name} * {_factor(size)}"


def _factor(size: Dim) -> str:
    text = dim_text(size)
    return f"({text})" if " " in text else text


# ---- Variants -----------------------------------------------------------------------------------


def _variants(sizes: Sizes, dtype: DType) -> list[Variant]:
    """By rows: one tile has all of few, and as many as tensor cores like of many."""
    tiles = _F32_TILES if dtype is DType.F32 else _TILES
    if isinstance(sizes.rows, int):
        rows = sizes.rows
        tile = next(one for one in tiles if one.most is None or rows <= one.most)
        return [_variant(sizes, tile, {})]
    names = symbols(sizes.rows)
    if [sizes.rows] != [sym(name) for name in names]:
        return [_variant(sizes, tiles[1], {})]
    return [
        _variant(sizes, tile, {} if tile.most is None else dict.fromkeys(names, tile.most))
        for tile in tiles
    ]


def _variant(sizes: Sizes, tile: _Tile, below: Mapping[str, int]) -> Variant:
    columns = min(tile.columns, _block(sizes.columns))
    depth = min(tile.depth, _block(sizes.depth))
    row_tiles = (sizes.rows + (tile.rows - 1)) // tile.rows
    column_tiles = (sizes.columns + (columns - 1)) // columns
    grid = (row_tiles * column_tiles * product(sizes.batch),)
    constants = {"ROWS": tile.rows, "COLUMNS": columns, "DEPTH": depth}
    return Variant("KERNEL_NAME", constants, grid, below, tile.warps, tile.stages)


def _block(size: Dim) -> int:
    """The least block of a product that has so many elements."""
    return max(16, power_of_two(size)) if isinstance(size, int) else 1 << 16
