"""Linear maps over weights of 8 or 4 bits in Triton, between a prologue and an epilogue.

before:  a region around a ``quantized_linear``: norms, gates before it; bias, units, sums after it
after:   a kernel whose functions have the weight as the left or as the right operand

The weight lies as ``graphopt.gpu_packing`` says. With ``weight_only`` its integers become floats of
the rows' type, and few rows are multiplied with exact ones, the scale coming after the sum over a
group; many are multiplied with scaled ones. Without it rows are rounded to 8 bits, few as they are
loaded and many in a launch ahead (``quant_rows``), integers are multiplied, and both scales come
after the sum over a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.errors import IRError
from graphopt.gpu_packing import CHUNK_ROWS, GpuPacking
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node
from graphopt.ir.ops_spec import bool_of, int_of
from graphopt.ir.shape import dim_max, sym
from graphopt.ir.types import StateType, TensorType
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..render import render
from ..rows.parts import anchor_of, parts_of
from ..rows.tree import RefusedError
from .anchor import Anchored, Prologue
from .early import of_chunks
from .expression import TYPES
from .functions import functions_for
from .kernel import TritonKernel, Variant, named_kernel
from .quant_rows import Ahead, context_of, from_f32, variant_of
from .quant_split import Work
from .quant_tiles import Product, Tile, product_tiles
from .quant_unpack import unpacking

# What integers of a few bits become.
MULTIPLIED = (DType.BF16, DType.F16)
# Operands of a quantized_linear without a bias.
OPERANDS = 3


def packing_of(graph: Graph, region: Region) -> GpuPacking:
    """How the weight of a region around a ``quantized_linear`` has to lie.

    Raises:
        IRError: no kernel reads such a weight.
    """
    anchor = anchor_of(graph, region)
    type_ = anchor.inputs[1].type
    rows, columns = type_.shape if isinstance(type_, TensorType) else (0, 0)
    if not (isinstance(rows, int) and isinstance(columns, int)):
        raise IRError("a weight of a size that is not known cannot be packed", got=type_)
    bits, group = int_of(anchor.attrs, "bits"), int_of(anchor.attrs, "group")
    return GpuPacking(rows, columns, bits, group, parts_of(graph, region).columns)


def quant_linear_kernel(graph: Graph, region: Region, arch: int = 90) -> TritonKernel | Verdict:
    """The kernel of a linear region over a quantized weight, or why there is none.

    Args:
        graph: what the region is of.
        region: of family ``linear``, around a ``quantized_linear``.
        arch: what it is to run on, such as 90: it decides the tiles.
    """
    if any(isinstance(value.type, StateType) for value in (*region.inputs, *region.outputs)):
        return refuse("it reads or writes state")
    if not any(graph.nodes[place].op == "quantized_linear" for place in region.nodes):
        return refuse("it is not built around a linear map with a quantized weight")
    anchor = anchor_of(graph, region)
    if not all(value.is_weight for value in anchor.inputs[1:OPERANDS]):
        return refuse(
            "its weight is made in the step, and is not packed", *anchor.inputs[1:OPERANDS]
        )
    try:
        return _kernel(Anchored(graph, region, OPERANDS), packing_of(graph, region), arch)
    except RefusedError as error:
        return refuse(error.reason, *error.culprits)
    except IRError as error:
        return refuse(f"{error.what}: {error.got}", anchor)


def _kernel(anchored: Anchored, packing: GpuPacking, arch: int) -> TritonKernel:
    anchor = anchored.anchor
    _check(anchored, anchor)
    rounds = not bool_of(anchor.attrs, "weight_only")
    is_plain = anchored.plain is not None
    product = Product(packing, anchored.dtype, arch, rounds=rounds, is_plain=is_plain)
    tiles = product_tiles(product)
    prologue = anchored.prologue(is_even=packing.columns % (packing.depth * packing.halves) == 0)
    widest = max(one.columns for one in tiles)
    is_even = anchored.width % widest == 0
    if rounds:
        prologue = from_f32(anchored, prologue)
    store = [*anchored.scale(prologue), *anchored.epilogue(is_even=is_even)]
    work = Work(
        packing.part_chunks[0] * CHUNK_ROWS, tiles, len(anchored.accumulators) + len(prologue.sums)
    )
    ahead = _ahead(packing, work, prologue) if rounds else None
    made = _Made(packing, prologue, store, work, ahead)
    variants = [
        variant_of(one, ahead, packing.depth, anchored.symbol, arch)
        if ahead and one.resident
        else _variant(one, packing, anchored.symbol)
        for one in tiles
    ]
    pointers: list[DType | None] = [buffer.dtype for buffer in anchored.buffers.values()]
    return named_kernel(
        anchored.region.name or "quantized_linear",
        _text(anchored, made, arch),
        [*pointers, None] if made.shares else pointers,
        anchored.sizes,
        variants,
        workspace=dim_max(work.nbytes, ahead.nbytes(sym(anchored.symbol)) if ahead else 0),
        early={"KERNEL_NAME_left": _early(anchored, packing)},
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """What a kernel is made of.

    Attributes:
        packing: how the weight lies.
        prologue: of rows that are loaded where they are multiplied.
        store: lines that store the result.
        work: what few rows' programs share.
        ahead: where many rows are, rounded; None if rows are not.
    """

    packing: GpuPacking
    prologue: Prologue
    store: Sequence[str]
    work: Work
    ahead: Ahead | None

    @property
    def shares(self) -> bool:
        """Whether there is a workspace."""
        return self.ahead is not None or self.work.nbytes > 0


def _ahead(packing: GpuPacking, work: Work, prologue: Prologue) -> Ahead:
    columns = packing.steps * packing.halves * packing.depth
    sums = len(prologue.sums)
    return Ahead("tl.int8", work.partials, columns, packing.depth, packing.is_whole, sums)


def _variant(one: Tile, packing: GpuPacking, symbol: str) -> Variant:
    constants = {"BLOCK_M": one.rows, "BLOCK_N": one.columns, "BLOCK_K": packing.depth}
    if one.is_left:
        constants |= {"SPLIT": one.split, "STEPS": one.steps, "EXACT": int(one.is_exact)}
    blocks = packing.part_chunks[0] * CHUNK_ROWS // one.columns
    grid = ((sym(symbol) + (one.rows - 1)) // one.rows, blocks, one.split)
    function = "KERNEL_NAME_left" if one.is_left else "KERNEL_NAME_right"
    below = {} if one.below is None else {symbol: one.below}
    return Variant(function, constants, grid, below, one.warps, one.stages)


def _check(anchored: Anchored, anchor: Node) -> None:
    if anchored.dtype not in MULTIPLIED:
        raise RefusedError(
            f"weights of a few bits are multiplied in bf16 or f16, not in {anchored.dtype}", anchor
        )
    scales = anchor.inputs[2]
    if not (isinstance(scales.type, TensorType) and scales.type.dtype is DType.F16):
        raise RefusedError("the scales of its weight are not f16", scales)


def _text(anchored: Anchored, made: _Made, arch: int) -> str:
    packing, prologue, store, ahead = made.packing, made.prologue, made.store, made.ahead
    names = [buffer.name for buffer in anchored.buffers.values()]
    given = [*names, *(["work"] if made.shares else []), *anchored.sizes]
    carried = [*anchored.accumulators, *(one.name for one in prologue.sums)]
    rounds = ahead is not None
    context = context_of(anchored, ahead, arch) if ahead else {"ahead": None}
    lines = "\n".join((*prologue.lines, *store))
    unpack, definitions = unpacking(packing.bits, anchored.dtype, rounds=rounds)
    return render(
        "triton/quant_linear.jinja",
        title=f"{anchored.region.name or 'linear'} of {anchored.region.scope or 'the model'}",
        libdevice="libdevice." in lines,
        functions=functions_for(lines) + definitions,
        arguments=given,
        carried=carried,
        passed=", ".join((*given, "row", "column", *carried)),
        comments=anchored.comments(),
        store=store,
        parts=_parts(anchored, packing),
        weight=anchored.weight.buffer.name,
        scales=anchored.source(anchored.anchor.inputs[2]).buffer.name,
        accumulators=anchored.accumulators,
        prologue=prologue,
        unpack=unpack,
        rounds=rounds,
        total="tl.int32" if rounds and packing.is_whole else "tl.float32",
        type=anchored.dtype,
        long=TYPES[anchored.dtype].removeprefix("tl."),
        halves=packing.halves,
        steps=packing.steps,
        depth=packing.depth,
        whole=packing.is_whole,
        factors=1 if packing.is_whole else packing.steps * packing.halves,
        chunk=CHUNK_ROWS,
        workspace=made.work.nbytes > 0,
        partials=made.work.partials // 4,
        rows=anchored.symbol,
        narrow="",
        **context,
    )


def _early(anchored: Anchored, packing: GpuPacking) -> list[str]:
    """What programs of few rows ask for before they wait."""
    data, scales = anchored.weight.buffer.name, anchored.source(anchored.anchor.inputs[2]).buffer
    firsts = [sum(packing.part_chunks[:place]) for place in range(len(packing.part_chunks))]
    return [line for one in firsts for line in of_chunks(data, scales.name, packing, one)]


def _parts(anchored: Anchored, packing: GpuPacking) -> list[Mapping[str, object]]:
    """Where the chunks of each part of the product are."""
    found: list[Mapping[str, object]] = []
    first = 0
    for place, chunks in enumerate(packing.part_chunks):
        found.append(
            {
                "data": f"w{place}_data",
                "scales": f"w{place}_scales",
                "weights": [f"w{place}_{half}" for half in range(packing.halves)],
                "first": first,
                "sum": anchored.accumulators[place],
            }
        )
        first += chunks
    return found
