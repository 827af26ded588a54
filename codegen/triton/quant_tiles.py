"""How a product with a quantized weight is cut into programs: tiles, splits of K, pipelines.

before:  a packed weight, what its rows are, and an architecture
after:   tiles for a few rows, bound by reading the weight, and tiles for many
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from graphopt.gpu_packing import CHUNK_ROWS, GpuPacking
from graphopt.ir.dtype import DType

from .linear_tiles import HOPPER, PROCESSORS

# The most rows that are few: the weight is then read once, and bounds the time.
FEW = (8, 16, 32)
# Programs of a multiprocessor that are to load together, and what one more part of K costs of the
# time. Guesses: no device has been asked.
_RESIDENT, _SPLIT_COST = 4, 0.02
# Bytes of a weight that a warp loads at once: sixteen each thread.
_WARP_BYTES = 32 * 16
# Bytes of a program whose loads run ahead.
_AHEAD = 24 << 10


@dataclass(frozen=True, slots=True)
class Product:
    """A product with a quantized weight.

    Attributes:
        packing: of the weight.
        dtype: of the rows.
        arch: such as 90.
        rounds: whether the rows are rounded too, and integers are multiplied.
        is_plain: whether the rows are in memory as they are, not computed as they are loaded.
    """

    packing: GpuPacking
    dtype: DType
    arch: int
    rounds: bool
    is_plain: bool = True

    @property
    def processors(self) -> int:
        """Multiprocessors of the device."""
        return processors_of(self.arch)


@dataclass(frozen=True, slots=True)
class Tile:
    """How much a program takes.

    Attributes:
        below: the most rows that it is for; None if any.
        rows: at a time.
        columns: of each part of the product, at a time.
        warps: of a program.
        stages: steps whose loads run ahead.
        is_left: whether the weight is the left operand.
        is_exact: whether integers are multiplied as they are, and sums of groups are scaled.
        split: programs that share rows and columns, each with a part of K.
        steps: of one program.
        resident: programs for each multiprocessor, which take one tile after the other; 0 where
            each takes one.
    """

    below: int | None
    rows: int
    columns: int
    warps: int
    stages: int
    is_left: bool = False
    is_exact: bool = False
    split: int = 1
    steps: int = 0
    resident: int = 0


def processors_of(arch: int) -> int:
    """Multiprocessors of a device."""
    return PROCESSORS[max((one for one in PROCESSORS if one <= arch), default=80)]


def product_tiles(product: Product) -> tuple[Tile, ...]:
    """Tiles by how many rows there are; the last for any number."""
    parts = len(product.packing.parts)
    few = [_few(product, rows) for rows in FEW if rows * parts <= FEW[-1]]
    return (*few, *_many(product))


def _few(product: Product, rows: int) -> Tile:
    packing, parts = product.packing, len(product.packing.parts)
    columns = CHUNK_ROWS if rows * parts <= 16 else CHUNK_ROWS // 2
    if (parts, rows, packing.bits, packing.depth, product.rounds) == (1, 32, 4, 64, True):
        columns = CHUNK_ROWS  # half as many spill 12 bytes on sm_90 with Triton 3.6
    if not product.is_plain and (product.rounds or rows > 8):
        columns = CHUNK_ROWS // 2  # what makes the rows takes registers too
    steps = _steps(product, columns)
    step = columns * packing.depth * parts
    step += rows * packing.depth * packing.halves * product.dtype.nbytes
    stages = max(2, min(8, _AHEAD // step + 1))
    split = -(-packing.steps // steps)
    # Two warps: four would be a warp group, whose instructions want the bytes in another order.
    warps = 2
    if product.rounds and not product.is_plain and (rows, packing.depth) == (16, 128):
        # There two warps spill 8 to 24 bytes with Triton 3.6.
        tight = (2, 8) if product.arch >= HOPPER else (1, 4)
        warps = 4 if (parts, packing.bits) == tight else 2
    return Tile(
        rows, rows, columns, warps, stages, is_left=True, is_exact=True, split=split, steps=steps
    )


def _steps(product: Product, columns: int) -> int:
    """Steps of one program."""
    packing = product.packing
    blocks = packing.part_chunks[0] * CHUNK_ROWS // columns
    depth = packing.depth * packing.halves
    return _split(blocks, packing.steps, depth, product.processors * _RESIDENT)


def _split(blocks: int, steps: int, depth: int, slots: int) -> int:
    """Steps of one program, so that programs which load together fill the device evenly.

    Args:
        blocks: of columns.
        steps: of all of K.
        depth: columns of x in one step.
        slots: programs that the device runs at once.
    """

    def worth(each: int) -> float:
        split = -(-steps // each)
        programs = blocks * split
        rounds = -(-programs // slots)
        even = steps / (split * each)
        return even * programs / (rounds * slots) * (1.0 - _SPLIT_COST * (split - 1))

    if blocks >= 2 * slots:
        return steps
    least = min(steps, max(1, -(-512 // depth)))
    return max((n for n in range(least, steps + 1) if -(-steps // n) <= 16), key=worth)


def _many(product: Product) -> tuple[Tile, ...]:
    packing = product.packing
    is_even, parts = packing.part_chunks[0] % 2 == 0, len(packing.parts)
    if product.rounds:
        return _rounded(product)
    stages = 2 if packing.depth == 128 else 3
    if product.arch >= HOPPER:
        warps = 4 if product.is_plain or parts == 1 else 8
        columns = 2 * CHUNK_ROWS if is_even and parts == 1 else CHUNK_ROWS
        return (
            Tile(64, 64, CHUNK_ROWS, warps, stages),
            Tile(None, 128, columns, 8, stages),
        )
    warps, columns = 4, CHUNK_ROWS
    # Four warps spill 16 bytes on sm_80, and with two whole parts up to 152 on sm_89.
    if packing.depth == 128 or packing.is_whole:
        warps, columns = 8, CHUNK_ROWS if parts == 1 else CHUNK_ROWS // 2
    return (Tile(None, 64, columns, warps, stages, is_left=True, steps=packing.steps),)


def _rounded(product: Product) -> tuple[Tile, ...]:
    """Tiles of many rows that were rounded ahead."""
    packing = product.packing
    is_even, parts = packing.part_chunks[0] % 2 == 0, len(packing.parts)
    stages = 3 if packing.depth == 128 else 4
    columns = 2 * CHUNK_ROWS if is_even and parts == 1 else CHUNK_ROWS
    small = Tile(64, 64, CHUNK_ROWS, 4, stages, resident=2)
    if product.arch >= HOPPER:
        if columns * packing.depth < 8 * _WARP_BYTES:  # eight warps would not load wide
            return (replace(small, below=None),)
        if (parts, packing.bits, packing.depth) == (2, 4, 128):
            # Both other tiles spill 24 bytes with Triton 3.6.
            return (replace(small, below=None, warps=8),)
        return small, Tile(None, 128, columns, 8, stages, resident=1)
    if columns == CHUNK_ROWS:
        # Of two parts of 4 bits, 64 rows spill up to 232 bytes.
        rows = 32 if (parts, packing.bits, packing.depth) == (2, 4, 128) else 64
        return (replace(small, below=None, rows=rows),)
    # Four warps spill up to 388 bytes of both halves of a byte, and of deep groups of 8 bits too.
    tight = not packing.is_whole and (packing.bits == 4 or packing.depth == 128)
    warps = 8 if tight else 4
    return small, Tile(None, 64, columns, warps, stages, resident=2)


def fp8_tiles(width: int, parts: int, k: int, depth: int, arch: int) -> tuple[Tile, ...]:
    """Tiles of a product in fp8 by how many rows there are; the last for any number.

    Args:
        width: columns of one part of the product.
        parts: that are computed side by side.
        k: what is summed over.
        depth: columns of x in one step.
        arch: such as 90.
    """
    steps = -(-k // depth)
    slots = processors_of(arch) * _RESIDENT
    each = _split(-(-width // CHUNK_ROWS), steps, depth, slots)
    split = -(-steps // each)
    few = [
        Tile(rows, rows, CHUNK_ROWS, 4, 4, is_left=True, split=split, steps=each)
        for rows in (16, 32)
    ]
    columns = CHUNK_ROWS * (2 if parts == 1 else 1)
    small = Tile(64, 64, CHUNK_ROWS, 4, 3, resident=2)
    if arch >= HOPPER:
        return (*few, small, Tile(None, 128, columns, 8, 3, resident=1))
    return (*few, small, Tile(None, 64, columns, 4, 3, resident=2))
