"""Linear maps in Triton: a product with a weight ``[N, K]`` between a prologue and an epilogue.

before:  a region around one ``linear``: norms, gathers, gates before it; bias, units, sums after it
after:   a kernel with one function for few rows, which reads the weight once, and one for many

A gated unit's gate and up are parts of one product: a program computes the same columns of all
parts, so that the epilogue has them side by side. An epilogue that needs whole rows of the product
is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim, dim_max, sym
from graphopt.ir.types import StateType
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..render import render
from ..rows.tree import Leaf, RefusedError
from .anchor import Anchored, Prologue
from .early import CACHE_LINE, of_rows
from .expression import TYPES
from .fill import fill_block, fill_variant
from .functions import functions_for
from .kernel import ALIGNMENT, TritonKernel, Variant, named_kernel
from .linear_tiles import HOPPER, Few, Many, Size, few_tiles, many_tiles

# What tensor cores multiply, and f32, which is multiplied without them.
MULTIPLIED = (DType.BF16, DType.F16, DType.F32)
# Blocks of rows side by side that share columns of the weight.
_GROUP = 8
# Offsets from here on are 64-bit integers.
_FAR = 1 << 31


def linear_kernel(
    graph: Graph,
    region: Region,
    arch: int = 90,
    *,
    deterministic: bool = False,
) -> TritonKernel | Verdict:
    """The kernel of a linear region, or why there is none.

    Args:
        graph: what the region is of.
        region: of family ``linear``, around a ``linear``.
        arch: what it is to run on, such as 90: it decides the tiles, and whether descriptors copy
            them.
        deterministic: whether the last variant will compute all steps, few rows' too.
    """
    if any(isinstance(value.type, StateType) for value in (*region.inputs, *region.outputs)):
        return refuse("it reads or writes state")
    if not any(graph.nodes[place].op == "linear" for place in region.nodes):
        return refuse("it is not built around a linear map")
    try:
        return _kernel(Anchored(graph, region), arch, deterministic=deterministic)
    except RefusedError as error:
        return refuse(error.reason, *error.culprits)


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A matrix in memory.

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

    @property
    def base(self) -> str:
        """The pointer to where it begins."""
        return f"{self.name} + {self.offset}" if self.offset else self.name

    def in_blocks(self, dtype: DType) -> bool:
        """Whether a descriptor can copy blocks of it."""
        places = (self.row * dtype.nbytes, self.offset * dtype.nbytes)
        return self.column == 1 and all(place % ALIGNMENT == 0 for place in places)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a region is computed.

    Attributes:
        size: the product.
        x: the rows that many-row programs multiply; in the workspace if ``is_filled``.
        parts: the rows of the weight for each part of the product.
        is_filled: whether a launch of its own makes the rows.
        few: tiles for few rows.
        many: tiles for many.
        even_n: whether tiles end where the columns do.
        sums: tiles of sums that programs of few rows which share columns leave to each other.
    """

    size: Size
    x: _Matrix
    parts: tuple[_Matrix, ...]
    is_filled: bool
    few: tuple[Few, ...]
    many: tuple[Many, ...]
    even_n: bool
    sums: int

    @property
    def splits(self) -> bool:
        """Whether programs of few rows share columns."""
        return any(one.split > 1 for one in self.few)

    @property
    def shares(self) -> bool:
        """Whether programs of many rows share tiles."""
        return any(one.split > 1 for one in self.many)

    @property
    def counters(self) -> int:
        """Bytes of counters at the start of the workspace, one for each block or tile."""
        counts = [self._blocks(one) for one in self.few if one.split > 1]
        counts += [one.tiles(self.size.width) for one in self.many if one.split > 1]
        return _lines(4 * max(counts, default=0))

    @property
    def tile_sums(self) -> int:
        """Bytes of sums that programs of many rows which share tiles leave to each other."""
        counts = [
            4 * one.tiles(self.size.width) * one.split * self.size.parts * one.rows * one.columns
            for one in self.many
            if one.split > 1
        ]
        return _lines(max(counts, default=0))

    def workspace(self, rows: Dim) -> Dim:
        """Bytes that programs share: counters; then sums of few rows, or sums and rows of many."""
        sums = [
            4 * self._blocks(one) * one.split * self.sums * one.rows * one.columns
            for one in self.few
            if one.split > 1
        ]
        filled = rows * (self.size.k * self.size.dtype.nbytes) if self.is_filled else 0
        found = dim_max(max(sums, default=0), self.tile_sums + filled)
        return self.counters + found if found != 0 else 0

    def _blocks(self, one: Few) -> int:
        return -(-self.size.width // one.columns)


def _kernel(anchored: Anchored, arch: int, *, deterministic: bool) -> TritonKernel:
    if anchored.dtype not in MULTIPLIED:
        raise RefusedError(f"nothing multiplies {anchored.dtype}", anchored.anchor.inputs[0])
    rows = sym(anchored.symbol)
    x, parts = _plain_rows(anchored), _parts(anchored)
    is_filled = x is None
    if x is None:
        x = _Matrix("x_rows", anchored.k, 1, 0)
    in_blocks = all(one.in_blocks(anchored.dtype) for one in (x, *parts))
    size = Size(anchored.width, len(parts), anchored.k, anchored.dtype, in_blocks, arch)
    # What several results take leaves no registers for the sums of others.
    may_share = len(anchored.region.outputs) == 1
    few = few_tiles(size)
    many = many_tiles(size, for_all=deterministic, may_share=may_share)
    prologue = anchored.prologue(is_even=all(size.k % (one.depth * one.split) == 0 for one in few))
    columns = [one.columns for one in few] + [one.columns for one in many]
    plan = _Plan(
        size,
        x,
        parts,
        is_filled,
        few,
        many,
        even_n=all(size.width % count == 0 for count in columns),
        sums=len(parts) + len(prologue.sums),
    )
    workspace = plan.workspace(rows)
    pointers: list[DType | None] = [buffer.dtype for buffer in anchored.buffers.values()]
    return named_kernel(
        anchored.region.name or "linear",
        _text(anchored, plan, prologue),
        [*pointers, None] if workspace != 0 else pointers,
        anchored.sizes,
        [
            *(_few_variant(one, size, anchored.symbol) for one in few),
            *(_many_variant(one, plan, rows, anchored.symbol) for one in many),
        ],
        workspace=workspace,
        early={"KERNEL_NAME_few": _early(anchored, plan)},
    )


def _lines(nbytes: int) -> int:
    """A number of bytes as whole lines of the second-level cache."""
    return -(-nbytes // CACHE_LINE) * CACHE_LINE


def _matrix(leaf: Leaf) -> _Matrix | None:
    """A matrix whose strides are known."""
    row, column, offset = (*leaf.access.strides, leaf.access.offset)
    if not (isinstance(row, int) and isinstance(column, int) and isinstance(offset, int)):
        return None
    return _Matrix(leaf.buffer.name, row, column, offset)


def _plain_rows(anchored: Anchored) -> _Matrix | None:
    """The rows of the operand, if they lie in memory as they are multiplied."""
    leaf = anchored.plain
    if leaf is None or leaf.buffer.dtype is not anchored.dtype:
        return None
    found = _matrix(leaf)
    return found if found is not None and found.column == 1 else None


def _parts(anchored: Anchored) -> tuple[_Matrix, ...]:
    leaf = anchored.weight
    whole = _matrix(leaf)
    if whole is None or leaf.buffer.dtype is not anchored.dtype:
        raise RefusedError("its weight is no matrix in memory", anchored.anchor.inputs[1])
    return tuple(
        _Matrix(whole.name, step * whole.row, whole.column, whole.offset + start * whole.row)
        for start, _, step in anchored.columns
    )


def _text(anchored: Anchored, plan: _Plan, prologue: Prologue) -> str:
    size = plan.size
    names = [buffer.name for buffer in anchored.buffers.values()]
    finishes = [*names, *anchored.sizes]
    scale = anchored.scale(prologue)
    store = anchored.epilogue(is_even=plan.even_n)
    even = size.k % fill_block(size.k) == 0
    fill = anchored.prologue(is_even=even, defers=False) if plan.is_filled else None
    shared = ["work"] if plan.splits or plan.shares or fill else []
    lines = [*prologue.lines, *scale, *store, *(fill.lines if fill else ())]
    text = "\n".join(lines)
    return render(
        "triton/linear.jinja",
        title=f"{anchored.region.name or 'linear'} of {anchored.region.scope or 'the model'}",
        libdevice="libdevice." in text,
        functions=functions_for(text),
        arguments=[*names, *shared, *anchored.sizes],
        finishes=finishes,
        passed=", ".join((*finishes, "row", "column", *anchored.accumulators)),
        carried=[*anchored.accumulators, *(one.name for one in prologue.sums)],
        comments=anchored.comments(),
        prologue=prologue,
        scale=scale,
        store=store,
        fill=fill,
        parts=_part_names(anchored, plan),
        accumulators=anchored.accumulators,
        along="i[None, :]" + (f" * {plan.parts[0].column}" if plan.parts[0].column != 1 else ""),
        few_mask=_mask(
            (f"column[:, None] < {size.width}", plan.even_n),
            (
                f"i[None, :] < {size.k}",
                _is_even(size.k, (one.depth * one.split for one in plan.few)),
            ),
        ),
        many_mask=_mask(
            (f"column[:, None] < {size.width}", plan.even_n),
            (f"i[None, :] < {size.k}", _is_even(size.k, (one.depth for one in plan.many))),
        ),
        x_mask=_mask(
            (f"row[:, None] < {anchored.symbol}", False),
            (f"i[None, :] < {size.k}", _is_even(size.k, (one.depth for one in plan.many))),
        ),
        fill_mask=f", mask=i[None, :] < {size.k}" * (not even),
        precision=', input_precision="ieee"' if size.dtype is DType.F32 else "",
        splits=plan.splits,
        shares=plan.shares,
        partials=plan.counters // 4,
        rows=anchored.symbol,
        width=size.width,
        k=size.k,
        group=_GROUP,
        x_base=plan.x.base,
        x_stride=plan.x.row,
        x_type=TYPES[size.dtype],
        x_offset=(plan.counters + plan.tile_sums) // size.dtype.nbytes,
        descriptors=_descriptors(anchored, plan) if _copies(size) else [],
    )


def _early(anchored: Anchored, plan: _Plan) -> list[str]:
    """What programs of few rows ask for before they wait: the weight, if no kernel writes it."""
    if not anchored.anchor.inputs[1].is_weight or plan.parts[0].column != 1:
        return []
    size = plan.size
    nbytes = size.dtype.nbytes
    return [
        of_rows(part.base, row=part.row, width=size.width, k=size.k, itemsize=nbytes)
        for part in plan.parts
    ]


def _copies(size: Size) -> bool:
    return size.in_blocks and size.arch >= HOPPER and size.dtype is not DType.F32


def _is_even(k: int, depths: Iterable[int]) -> bool:
    """Whether what programs take of K always ends where it ends."""
    return all(k % depth == 0 for depth in depths)


def _mask(*bounds: tuple[str, bool]) -> str:
    """What is loaded, as an argument of a load; empty if all."""
    masks = [text for text, holds in bounds if not holds]
    text = " & ".join(f"({one})" for one in masks) if len(masks) > 1 else "".join(masks)
    return f", mask={text}, other=0.0" if text else ""


def _part_names(anchored: Anchored, plan: _Plan) -> list[Mapping[str, str]]:
    """Where the rows of the weight that make each part of the product are."""
    found: list[Mapping[str, str]] = []
    for place, part in enumerate(plan.parts):
        column = "column.to(tl.int64)" if plan.size.width * part.row >= _FAR else "column"
        start = f"{part.base} + {column}[:, None] * {part.row}"
        name = anchored.accumulators[place]
        found.append({"pointer": f"w{place}_row", "start": start, "sum": name})
    return found


def _descriptors(anchored: Anchored, plan: _Plan) -> list[Mapping[str, object]]:
    """The rows and the parts of the weight as blocks that are copied at once."""
    x = {"name": "x_blocks", "base": plan.x.base, "rows": anchored.symbol, "stride": plan.x.row}
    found: list[Mapping[str, object]] = [{**x, "block": "BLOCK_M"}]
    for place, part in enumerate(plan.parts):
        w = {"name": f"w{place}_blocks", "base": part.base, "rows": plan.size.width}
        found.append({**w, "stride": part.row, "block": "BLOCK_N"})
    return found


def _few_variant(one: Few, size: Size, symbol: str) -> Variant:
    constants = {
        "BLOCK_M": one.rows,
        "BLOCK_N": one.columns,
        "BLOCK_K": one.depth,
        "SPLIT": one.split,
        "STEPS": one.steps(size.k),
    }
    grid = (-(-size.width // one.columns), one.split)
    return Variant("KERNEL_NAME_few", constants, grid, {symbol: one.rows}, one.warps, one.stages)


def _many_variant(one: Many, plan: _Plan, rows: Dim, symbol: str) -> Variant:
    programs = plan.size.processors * one.resident
    constants = {
        "BLOCK_M": one.rows,
        "BLOCK_N": one.columns,
        "BLOCK_K": one.depth,
        "PROGRAMS": programs,
        "FLATTEN": int(one.is_flat),
        "SPECIALIZE": int(one.is_special),
    }
    if plan.shares:
        constants["SPLIT"] = one.split
    below = {} if one.below is None else {symbol: one.below}
    many = Variant("KERNEL_NAME_many", constants, (programs,), below, one.warps, one.stages)
    if not plan.is_filled:
        return many
    return fill_variant(plan.size.k, rows, many)
