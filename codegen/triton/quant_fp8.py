"""Linear maps in fp8 in Triton: rows rounded to what the weight is of, and multiplied as they are.

before:  a region around one ``fp8_linear``: norms, gates before it; bias, units, sums after it
after:   a kernel that rounds few rows as it loads them, and many in a launch ahead: ``quant_rows``

Both operands of the tensor cores are f8e4m3. With blocks, sums of a group are scaled by the block's
scale and the rows'; without, a first pass over K finds the greatest number of each row, and sums
are scaled at the end. Every 128 products are added up in f32: tensor cores keep fewer digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.ops_spec import int_of
from graphopt.ir.shape import dim_max, sym
from graphopt.ir.types import StateType, TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..render import render
from ..rows.parts import anchor_of
from ..rows.tree import RefusedError
from .anchor import Anchored, Prologue
from .compile import FP8_ARCH
from .early import of_rows
from .functions import functions_for
from .kernel import ALIGNMENT, TritonKernel, Variant, named_kernel
from .linear_tiles import HOPPER
from .quant_rows import Ahead, context_of, from_f32, variant_of
from .quant_split import Work
from .quant_tiles import Tile, fp8_tiles
from .quant_unpack import definitions

# Columns of a block; a tile of a product is as deep, 128 where there are no blocks.
BLOCKS = (0, 32, 64, 128)
DEPTH = 128
# Operands of an fp8_linear without a bias.
OPERANDS = 3


def fp8_linear_kernel(graph: Graph, region: Region, arch: int = 90) -> TritonKernel | Verdict:
    """The kernel of a linear region in fp8, or why there is none.

    Args:
        graph: what the region is of.
        region: of family ``linear``, around an ``fp8_linear``.
        arch: what it is to run on, such as 90.
    """
    if any(isinstance(value.type, StateType) for value in (*region.inputs, *region.outputs)):
        return refuse("it reads or writes state")
    if not any(graph.nodes[place].op == "fp8_linear" for place in region.nodes):
        return refuse("it is not built around a linear map in fp8")
    anchor = anchor_of(graph, region)
    if arch < FP8_ARCH:
        return refuse(
            f"sm_{arch} has no tensor cores for fp8, which begin with sm_{FP8_ARCH}", anchor
        )
    block, weight = int_of(anchor.attrs, "block"), anchor.inputs[1].type
    if block not in BLOCKS:
        return refuse(f"no tile is as deep as its blocks of {block} columns", anchor)
    if not isinstance(weight, TensorType) or weight.dtype is not DType.F8E4M3:
        return refuse(f"its weight is not f8e4m3 but {weight}", anchor.inputs[1])
    try:
        return _kernel(Anchored(graph, region, OPERANDS), block, arch)
    except RefusedError as error:
        return refuse(error.reason, *error.culprits)


def _kernel(anchored: Anchored, block: int, arch: int) -> TritonKernel:
    if anchored.dtype not in (DType.BF16, DType.F16):
        raise RefusedError(
            f"rows are rounded to fp8 from bf16 or f16, not from {anchored.dtype}", anchored.anchor
        )
    scales = anchored.source(anchored.anchor.inputs[2])
    if scales.buffer.dtype is not DType.F32:
        raise RefusedError("the scales of its weight are not f32", anchored.anchor.inputs[2])
    depth = block or DEPTH
    tiles = fp8_tiles(anchored.width, len(anchored.columns), anchored.k, depth, arch)
    prologue = from_f32(anchored, anchored.prologue(is_even=anchored.k % depth == 0))
    is_even = all(anchored.width % one.columns == 0 for one in tiles)
    store = [*anchored.scale(prologue), *anchored.epilogue(is_even=is_even)]
    work = Work(anchored.width, tiles, len(anchored.accumulators) + len(prologue.sums))
    columns = -(-anchored.k // depth) * depth
    sums = len(prologue.sums)
    ahead = Ahead("tl.float8e4nv", work.partials, columns, depth, block == 0, sums)
    made = _Made(prologue, store, work, ahead, block, is_even)
    pointers: list[DType | None] = [buffer.dtype for buffer in anchored.buffers.values()]
    return named_kernel(
        anchored.region.name or "fp8_linear",
        _text(anchored, made, arch),
        [*pointers, None],
        anchored.sizes,
        [
            variant_of(one, ahead, depth, anchored.symbol, arch)
            if one.resident
            else _variant(one, depth, anchored)
            for one in tiles
        ],
        workspace=dim_max(work.nbytes, ahead.nbytes(sym(anchored.symbol))),
        early={"KERNEL_NAME_few": _early(anchored)},
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """What a kernel is made of.

    Attributes:
        prologue: of few rows.
        store: lines that store the result.
        work: what few rows' programs share.
        ahead: where many rows are, rounded.
        block: columns that have one scale; 0 for all.
        is_even: whether tiles end where the columns do.
    """

    prologue: Prologue
    store: Sequence[str]
    work: Work
    ahead: Ahead
    block: int
    is_even: bool


def _variant(one: Tile, depth: int, anchored: Anchored) -> Variant:
    constants = {
        "BLOCK_M": one.rows,
        "BLOCK_N": one.columns,
        "BLOCK_K": depth,
        "SPLIT": one.split,
        "STEPS": one.steps,
    }
    rows = (sym(anchored.symbol) + (one.rows - 1)) // one.rows
    grid = (rows, -(-anchored.width // one.columns), one.split)
    below = {} if one.below is None else {anchored.symbol: one.below}
    return Variant("KERNEL_NAME_few", constants, grid, below, one.warps, one.stages)


def _text(anchored: Anchored, made: _Made, arch: int) -> str:
    prologue, store, is_even = made.prologue, made.store, made.is_even
    depth, anchor = made.block or DEPTH, anchored.anchor
    given = [*(buffer.name for buffer in anchored.buffers.values()), "work", *anchored.sizes]
    carried = [*anchored.accumulators, *(one.name for one in prologue.sums)]
    # Rows begin where a descriptor's may.
    in_blocks = arch >= HOPPER and anchored.k % ALIGNMENT == 0
    parts = _parts(anchored, in_blocks=in_blocks)
    blocks = [_blocks(anchored, part) for part in parts if part["blocks"]]
    context = context_of(anchored, made.ahead, arch, blocks)
    lines = "\n".join((*prologue.lines, *store))
    masks = [f"(column[:, None] < {anchored.width})"] * (not is_even)
    masks += [f"(i[None, :] < {anchored.k})"] * (anchored.k % depth != 0)
    own = ("greatest_of", "steps_of_fp8", "width_of_fp8", "round_rows_fp8")
    return render(
        "triton/quant_fp8.jinja",
        title=f"{anchored.region.name or 'linear'} of {anchored.region.scope or 'the model'}",
        libdevice="libdevice." in lines,
        functions=functions_for(lines) + definitions(*own),
        arguments=given,
        carried=carried,
        passed=", ".join((*given, "row", "column", *carried)),
        comments=anchored.comments(),
        store=store,
        parts=parts,
        weight=anchored.weight.buffer.name,
        scales=anchored.source(anchor.inputs[2]).buffer.name,
        accumulators=anchored.accumulators,
        prologue=prologue,
        grouped=made.block > 0,
        depth=depth,
        k=anchored.k,
        steps=-(-anchored.k // depth),
        masked=f", mask={' & '.join(masks)}, other=0.0" if masks else "",
        masked_scale="" if is_even else f", mask=column < {anchored.width}, other=0.0",
        workspace=made.work.nbytes > 0,
        partials=made.work.partials // 4,
        rows=anchored.symbol,
        narrow="_fp8",
        **context,
    )


def _early(anchored: Anchored) -> list[str]:
    """What programs of few rows ask for before they wait: the weight, if no kernel writes it."""
    if not anchored.anchor.inputs[1].is_weight:
        return []
    name, k, width = anchored.weight.buffer.name, anchored.k, anchored.width
    programs = {"block": "tl.program_id(1)", "split": "tl.program_id(2)"}
    return [
        of_rows(f"{name} + {start * k}", row=step * k, width=width, k=k, itemsize=1, **programs)
        for start, _, step in anchored.columns
    ]


def _blocks(anchored: Anchored, part: Mapping[str, object]) -> Mapping[str, object]:
    """What a descriptor of a part of the weight is made of."""
    start, step = int(str(part["start"])), int(str(part["step"]))
    return {
        "name": part["blocks"],
        "base": f"{anchored.weight.buffer.name} + {start * anchored.k}",
        "rows": anchored.width,
        "columns": anchored.k,
        "stride": step * anchored.k,
        "block": "BLOCK_N",
    }


def _parts(anchored: Anchored, *, in_blocks: bool) -> list[Mapping[str, object]]:
    """Which rows of the weight make each part of the product, and what copies blocks of them."""
    return [
        {
            "rows": f"w{place}_row",
            "data": f"w{place}_data",
            "start": start,
            "step": step,
            "sum": anchored.accumulators[place],
            "blocks": f"w{place}_blocks" if in_blocks else "",
        }
        for place, (start, _, step) in enumerate(anchored.columns)
    ]
