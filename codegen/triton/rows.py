"""Row programs in Triton: pointwise work, reductions, gathers, heads and writes of keys and values.

before:  a region, its work on one row after the other
after:   a kernel whose programs take blocks of rows, or of parts of rows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from graphopt.gpu_packing import GpuPacking
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops_spec import int_of
from graphopt.ir.shape import Dim, sym, symbols
from graphopt.ir.types import StateType, TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..render import render
from ..rows import index, layers, pointwise, reduce, shape
from ..rows.access import Access
from ..rows.arguments import Argument, Kind, arguments
from ..rows.lower import Lower, Lowering, type_of
from ..rows.names import Names
from ..rows.program import comment, leaf_of, needed, rows_of
from ..rows.tree import Buffer, Leaf, RefusedError, Tree, map_view
from . import tile_embed, tile_select
from .expression import TYPES
from .functions import functions_for
from .kernel import TritonKernel, Variant, named_kernel
from .tile_lower import TileLowering
from .tile_scope import MOST_ELEMENTS, power_of_two
from .tiles import Tiles

# Steps of at most so many rows want many programs more than they want large ones.
FEW_ROWS = 64
# Elements of a tile, with few rows and with many.
_SMALL, _LARGE = 1024, 4096
# Elements of what has no rows: programs share them by blocks.
MOST_WITHOUT_ROWS = 1 << 30
# Rows of one program.
_MOST_ROWS = 32
# Elements that one thread works on.
_PER_THREAD = 8
# The greatest numbers of types that a state may be kept in and that have no infinity to round to.
_GREATEST = {DType.F8E4M3: 448.0, DType.F8E5M2: 57344.0}
NO_PACKINGS: Mapping[str, GpuPacking] = MappingProxyType({})


def rows_kernel(
    graph: Graph, region: Region, packings: Mapping[str, GpuPacking] = NO_PACKINGS
) -> TritonKernel | Verdict:
    """The kernel that computes a region row by row, or why there is none.

    Args:
        graph: what the region is of.
        region: of a family whose work goes row by row.
        packings: how weights in few bits lie, by name; the others lie row after row.
    """
    try:
        return _kernel(graph, region, packings)
    except RefusedError as error:
        return refuse(error.reason, *(error.culprits or region.outputs))


def _kernel(graph: Graph, region: Region, packings: Mapping[str, GpuPacking]) -> TritonKernel:
    outputs = region.outputs or (graph.nodes[region.nodes[-1]].output,)
    rows = rows_of(outputs, graph, region, most=MOST_WITHOUT_ROWS)
    names = Names(graph)
    given = arguments(graph, region)
    state = state_dtype(graph, region)
    buffers = {one: buffer_of(one, names, state) for one in given}
    plain = {one: buffer for one, buffer in buffers.items() if one.dtype is not None}
    chosen = [graph.nodes[place] for place in region.nodes]
    lowering = TileLowering(
        graph=graph,
        makers={output: node for node in chosen for output in node.outputs},
        rows=rows,
        operands={o.value: leaf_of(o.value, b) for o, b in plain.items() if not _is_result(o)},
        results={o.value: leaf_of(o.value, b) for o, b in plain.items() if _is_result(o)},
        names=names,
        table=TABLE,
        dtypes=TYPES.keys(),
        states=_states(buffers),
        packings=packings,
    )
    lowering.finish()
    tiles = Tiles(rows, names, notes=Notes(names, lowering.makers, chosen))
    tiles.print(lowering.stores)
    sizes = sizes_of(graph, region)
    variants = _variants(tiles, rows.symbol)
    text = render(
        "triton/rows.jinja",
        title=f"{region.name or region.family} of {region.scope or 'the model'}",
        libdevice="libdevice." in "".join(tiles.lines),
        functions=functions_for("\n".join(tiles.lines)),
        arguments=[*(buffer.name for buffer in buffers.values()), *sizes],
        constants=list(variants[0].constants),
        lines=tiles.lines,
    )
    pointers = [buffer.dtype for buffer in buffers.values()]
    return named_kernel(region.name or region.family, text, pointers, sizes, variants)


class Notes:
    """The IR of what a kernel computes, each node where it is first computed."""

    def __init__(self, names: Names, makers: Mapping[Value, Node], nodes: Sequence[Node]) -> None:
        self._names = names
        self._makers = makers
        self._nodes = nodes
        self._told: set[Node] = set()

    def __call__(self, values: Sequence[Value]) -> list[str]:
        """Comments on the nodes that ``values`` are made with."""
        computed = needed(values, self._makers)
        fresh = [node for node in self._nodes if node in computed and node not in self._told]
        self._told.update(fresh)
        return [line for node in fresh for line in comment(self._names.line(node), "#")]


def buffer_of(argument: Argument, names: Names, state: DType | None = None) -> Buffer:
    """The memory that an argument points to; ``state`` is the type of a state's elements."""
    name = names.of(argument.value)
    if argument.dtype is None:
        name = f"{name}_{argument.kind.value}"
    return Buffer(names.use(name), argument.dtype or state)


def sizes_of(graph: Graph, region: Region) -> tuple[str, ...]:
    """The sizes that a region's kernel is given, in order."""
    nodes = [graph.nodes[place] for place in region.nodes]
    values = [*region.inputs, *(value for node in nodes for value in node.outputs)]
    found: set[str] = set()
    for value in values:
        if isinstance(value.type, TensorType):
            for size in value.type.shape:
                found |= symbols(size)
    return tuple(sorted(found))


def state_dtype(graph: Graph, region: Region) -> DType | None:
    """The type of a state's elements in the layer that a region reads or writes, if it does."""
    for place in region.nodes:
        node = graph.nodes[place]
        for value in node.inputs:
            if isinstance(value.type, StateType) and "layer" in node.attrs:
                return value.type.layers[int_of(node.attrs, "layer")].dtype
    return None


def _states(buffers: Mapping[Argument, Buffer]) -> dict[Value, tuple[Buffer, Buffer]]:
    keys = {one.value: buffer for one, buffer in buffers.items() if one.kind is Kind.KEYS}
    return {
        one.value: (keys[one.value], buffer)
        for one, buffer in buffers.items()
        if one.kind is Kind.VALUES
    }


def _is_result(argument: Argument) -> bool:
    return argument.kind is Kind.RESULT


def _variants(tiles: Tiles, symbol: str | None) -> list[Variant]:
    """Small tiles for few rows, larger ones for many."""
    few, many = (_variant(tiles, symbol, elements) for elements in (_SMALL, _LARGE))
    if symbol is None or few == many:
        return [many if symbol else few]
    return [replace(few, below={symbol: FEW_ROWS}), many]


def _variant(tiles: Tiles, symbol: str | None, elements: int) -> Variant:
    """The variant whose tiles have about so many elements.

    With few rows, results of different shapes are different programs' affair; with many, one
    program's.
    """
    are_few = elements == _SMALL
    constants: dict[str, int] = {}
    parts, largest = 1, tiles.elements
    for block in tiles.blocks:
        most = MOST_ELEMENTS if tiles.whole_rows else elements
        length = max(1, min(power_of_two(block.size), most // block.rest))
        constants[f"BLOCK{block.number}"] = length
        largest = max(largest, length * block.rest)
    if tiles.blocks and not tiles.whole_rows:
        parts = 0
        for block in tiles.blocks:
            count = -(-block.size // constants[f"BLOCK{block.number}"])
            if tiles.shares:
                constants[f"FIRST{block.number}"] = parts if are_few else 0
            constants[f"PARTS{block.number}"] = count
            parts = parts + count if are_few else max(parts, count)
        if tiles.shares and not are_few:
            constants |= {f"PARTS{block.number}": parts for block in tiles.blocks}
    rows = 1
    if symbol is not None and not are_few:
        room = _SMALL if tiles.narrows else elements
        rows = max(1, min(_MOST_ROWS, room // largest))
    grid: tuple[Dim, ...] = (1 if symbol is None else (sym(symbol) + (rows - 1)) // rows,)
    if parts > 1:
        grid = (*grid, parts)
    warps = largest * rows // (32 * _PER_THREAD)
    warps = max(1, min(16, 1 << max(0, warps.bit_length() - 1)))
    if any(block.rest * rows == 32 * warps > 32 for block in tiles.blocks):
        warps //= 2  # a row of a table would be loaded element by element
    return Variant("KERNEL_NAME", {"ROWS": rows, **constants}, grid, {}, warps)


def _write(lowering: Lowering, node: Node) -> Sequence[Tree]:
    """Rows ``[heads, size]`` of a token, to the state: ``[slot, head, element]``."""
    if not isinstance(lowering, TileLowering):
        raise TypeError(f"{node.op} is lowered to stores of tiles")
    state = node.inputs[0]
    while state not in lowering.states:
        state = lowering.makers[state].inputs[0]
    slot = lowering.tree(node.inputs[-1])
    for value, buffer in zip(node.inputs[1:-1], lowering.states[state], strict=False):
        rows, heads, size = type_of(value).shape
        places = map_view(slot, partial(_repeated, sizes=(rows, heads, size)))
        if places is None:
            raise RefusedError("slots have no such view", node)
        target = Leaf(buffer, Access((rows, heads, size), (0, size, 1)), ((places, heads * size),))
        holds = pointwise.apply("a >= 0", places, dtype=DType.BOOL)
        lowering.store(value, target, holds, within=_GREATEST.get(buffer.dtype or DType.F32))
    return (slot,)


def _repeated(access: Access, sizes: tuple[Dim, ...]) -> Access:
    """One number a row, for all of its elements."""
    return Access(sizes, (access.strides[0], *(0 for _ in sizes[1:])), access.offset)


TABLE: Mapping[str, Lower] = {
    **pointwise.TABLE,
    **shape.TABLE,
    **reduce.TABLE,
    **index.TABLE,
    **layers.TABLE,
    **tile_select.TABLE,
    **tile_embed.TABLE,
    "kv_write": _write,
    "latent_write": _write,
}
