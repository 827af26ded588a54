"""Linear maps in Triton: a product with a weight ``[N, K]`` between a prologue and an epilogue.

before:  a region around one ``linear``: norms, gathers, gates before it; bias, units, sums after it
after:   a kernel with one function for few rows, which reads the weight once, and one for many

A gated unit's gate and up are parts of one product: a program computes the same columns of all
parts, so that the epilogue has them side by side. An epilogue that needs whole rows of the product
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import StateType
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..render import render
from ..rows.tree import RefusedError
from .anchor import Anchored, Prologue
from .expression import dim_text
from .functions import functions_for
from .kernel import ALIGNMENT, TritonKernel, Variant, named_kernel
from .linear_tiles import Few, Many, Size, few_tiles, many_tiles

# What tensor cores multiply, and f32, which is multiplied without them.
MULTIPLIED = (DType.BF16, DType.F16, DType.F32)
# Blocks of rows side by side that share columns of the weight.
_GROUP = 8
# Offsets from here on are 64-bit integers.
_FAR = 1 << 31


def linear_kernel(graph: Graph, region: Region, arch: int = 90) -> TritonKernel | Verdict:
    """The kernel of a linear region, or why there is none.

    Args:
        graph: what the region is of.
        region: of family ``linear``, around a ``linear``.
        arch: what it is to run on, such as 90: it decides the tiles, and whether descriptors copy
            them.
    """
    if any(isinstance(value.type, StateType) for value in (*region.inputs, *region.outputs)):
        return refuse("it reads or writes state")
    if not any(graph.nodes[place].op == "linear" for place in region.nodes):
        return refuse("it is not built around a linear map")
    try:
        return _kernel(Anchored(graph, region), arch)
    except RefusedError as error:
        return refuse(error.reason, *error.culprits)


@dataclass(frozen=True, slots=True)
class _Weight:
    """A weight in memory.

    Attributes:
        name: the pointer.
        row: from one row to the next, in elements.
        column: from one column to the next.
        offset: where it begins.
    """

    name: str
    row: int
    column: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """A block of a matrix that can be copied at once."""

    name: str
    base: str
    rows: str
    stride: int
    block: str


def _kernel(anchored: Anchored, arch: int) -> TritonKernel:
    if anchored.dtype not in MULTIPLIED:
        raise RefusedError(f"nothing multiplies {anchored.dtype}", anchored.anchor.inputs[0])
    weight = _weight(anchored)
    rows = sym(anchored.symbol)
    size = Size(
        anchored.width, len(anchored.columns), anchored.k, anchored.dtype, anchored.is_plain, arch
    )
    few = few_tiles(size)
    many = many_tiles(size)
    depths = [one.depth * one.split for one in few] + [one.depth for one in many]
    even_k = all(size.k % depth == 0 for depth in depths)
    columns = [one.columns for one in few] + [one.columns for one in many]
    even_n = all(size.width % count == 0 for count in columns)
    prologue = anchored.prologue(is_even=even_k)
    store = anchored.epilogue(prologue, is_even=even_n)
    work = _Work(size, few, len(anchored.accumulators) + len(prologue.sums))
    text = _text(anchored, arch, weight, prologue, store, work, even_k=even_k, even_n=even_n)
    variants = [
        *(_few_variant(one, size, rows, anchored.symbol) for one in few),
        *(_many_variant(one, size, rows, anchored.symbol) for one in many),
    ]
    pointers: list[DType | None] = [buffer.dtype for buffer in anchored.buffers.values()]
    name = anchored.region.name or "linear"
    return named_kernel(
        name,
        text,
        [*pointers, None] if work.nbytes else pointers,
        anchored.sizes,
        variants,
        workspace=work.nbytes,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """The memory in which programs that share columns leave their sums.

    Attributes:
        size: the product.
        few: how it is split.
        sums: tiles that a program leaves; sums of rows take one too.
    """

    size: Size
    few: Sequence[Few]
    sums: int

    @property
    def partials(self) -> int:
        """Bytes before the sums: a counter for each block of columns."""
        counters = [self._blocks(one) for one in self.few if one.split > 1]
        return -(-4 * max(counters, default=0) // 128) * 128

    @property
    def nbytes(self) -> int:
        """All bytes."""
        found = [
            4 * self._blocks(one) * one.split * self.sums * one.rows * one.columns
            for one in self.few
            if one.split > 1
        ]
        return self.partials + max(found) if found else 0

    def _blocks(self, one: Few) -> int:
        return -(-self.size.width // one.columns)


def _weight(anchored: Anchored) -> _Weight:
    leaf = anchored.weight
    place = (*leaf.access.strides, leaf.access.offset)
    row, column, offset = (one if isinstance(one, int) else -1 for one in place)
    if min(row, column, offset) < 0 or leaf.buffer.dtype is not anchored.dtype:
        raise RefusedError("its weight is no matrix in memory", anchored.anchor.inputs[1])
    return _Weight(leaf.buffer.name, row, column, offset)


def _text(
    anchored: Anchored,
    arch: int,
    weight: _Weight,
    prologue: Prologue,
    store: Sequence[str],
    work: _Work,
    *,
    even_k: bool,
    even_n: bool,
) -> str:
    names = [buffer.name for buffer in anchored.buffers.values()]
    finishes = [*names, *anchored.sizes]
    carried = [*anchored.accumulators, *(one.name for one in prologue.sums)]
    parts = _parts(anchored, weight)
    x = _x_descriptor(anchored, prologue) if arch >= 90 else None
    w = _w_descriptors(anchored, weight) if arch >= 90 else []
    terms = [one.term for one in prologue.sums]
    lines = "\n".join((*prologue.before, *prologue.load, prologue.tile, *terms, *store))
    masks = [f"column[:, None] < {anchored.width}"] * (not even_n)
    masks += [f"i[None, :] < {anchored.k}"] * (not even_k)
    mask = " & ".join(f"({one})" for one in masks) if len(masks) > 1 else "".join(masks)
    return render(
        "triton/linear.jinja",
        title=f"{anchored.region.name or 'linear'} of {anchored.region.scope or 'the model'}",
        libdevice="libdevice." in lines,
        functions=functions_for(lines),
        arguments=[*names, *(["work"] if work.nbytes else []), *anchored.sizes],
        finishes=finishes,
        carried=carried,
        passed=", ".join((*finishes, "row", "column", *carried)),
        comments=anchored.comments(),
        store=store,
        parts=parts,
        weight=weight.name,
        accumulators=anchored.accumulators,
        prologue=prologue,
        along="i[None, :]" if weight.column == 1 else f"i[None, :] * {weight.column}",
        masked=f", mask={mask}, other=0.0" if mask else "",
        precision=', input_precision="ieee"' if anchored.dtype is DType.F32 else "",
        workspace=work.nbytes > 0,
        partials=work.partials // 4,
        rows=anchored.symbol,
        width=anchored.width,
        k=anchored.k,
        group=_GROUP,
        descriptors=[*([x] if x else []), *w],
        x_descriptor=x.name if x else "",
        w_descriptors=[one.name for one in w],
    )


def _parts(anchored: Anchored, weight: _Weight) -> list[Mapping[str, str]]:
    """Where the rows of the weight that make each part of the product are."""
    found: list[Mapping[str, str]] = []
    far = anchored.width * max(step for _, _, step in anchored.columns) * weight.row >= _FAR
    column = "column.to(tl.int64)" if far else "column"
    for place, (start, _, step) in enumerate(anchored.columns):
        offset = weight.offset + start * weight.row
        places = f"{column}[:, None] * {step * weight.row}"
        places = f"({offset} + {places})" if offset else places
        name = f"w{place}_row"
        found.append({"pointer": name, "places": places, "sum": anchored.accumulators[place]})
    return found


def _x_descriptor(anchored: Anchored, prologue: Prologue) -> _Descriptor | None:
    """The rows as blocks that can be copied at once, if they lie so."""
    leaf = prologue.plain
    if leaf is None or leaf.indices or prologue.sums or leaf.buffer.dtype is not anchored.dtype:
        return None
    row, column = leaf.access.strides
    offset = leaf.access.offset
    if not (column == 1 and isinstance(row, int) and isinstance(offset, int)):
        return None
    if not _is_aligned(anchored.dtype, row, offset):
        return None
    base = f"{leaf.buffer.name} + {offset}" if offset else leaf.buffer.name
    return _Descriptor("x_blocks", base, anchored.symbol, row, "BLOCK_M")


def _w_descriptors(anchored: Anchored, weight: _Weight) -> list[_Descriptor]:
    """The parts of the weight as blocks that can be copied at once, if all lie so."""
    found = []
    for place, (start, _, step) in enumerate(anchored.columns):
        offset = weight.offset + start * weight.row
        if weight.column != 1 or not _is_aligned(anchored.dtype, step * weight.row, offset):
            return []
        base = f"{weight.name} + {offset}" if offset else weight.name
        rows = dim_text(anchored.width)
        found.append(_Descriptor(f"w{place}_blocks", base, rows, step * weight.row, "BLOCK_N"))
    return found


def _is_aligned(dtype: DType, *places: int) -> bool:
    return all(place * dtype.nbytes % ALIGNMENT == 0 for place in places)


def _few_variant(one: Few, size: Size, rows: Dim, symbol: str) -> Variant:
    constants = {
        "BLOCK_M": one.rows,
        "BLOCK_N": one.columns,
        "BLOCK_K": one.depth,
        "SPLIT": one.split,
        "STEPS": one.steps(size.k),
    }
    grid = (-(-size.width // one.columns), one.split)
    return Variant("KERNEL_NAME_few", constants, grid, {symbol: one.rows}, one.warps, one.stages)


def _many_variant(one: Many, size: Size, rows: Dim, symbol: str) -> Variant:
    programs = size.processors * one.resident
    constants = {
        "BLOCK_M": one.rows,
        "BLOCK_N": one.columns,
        "BLOCK_K": one.depth,
        "PROGRAMS": programs,
    }
    below = {} if one.below is None else {symbol: one.below}
    return Variant("KERNEL_NAME_many", constants, (programs,), below, one.warps, one.stages)
