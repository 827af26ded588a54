"""How a product with a quantized weight is cut into programs: tiles, splits of K, pipelines.

before:  a packed weight, what its rows are, and an architecture
after:   tiles for a few rows, bound by reading the weight, and tiles for many
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.gpu_packing import CHUNK_ROWS, GpuPacking
from graphopt.ir.dtype import DType

from .linear_tiles import PROCESSORS

# The most rows that are few: the weight is then read once, and bounds the time.
FEW = (8, 16, 32)
# The first architecture whose warp groups multiply what is in shared memory.
_HOPPER = 90
# Programs of a multiprocessor that are to load together, and what one more part of K costs of the
# time. Guesses: no device has been asked.
_RESIDENT, _SPLIT_COST = 4, 0.02
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
    """

    packing: GpuPacking
    dtype: DType
    arch: int
    rounds: bool

    @property
    def processors(self) -> int:
        """Multiprocessors of the device."""
        return PROCESSORS[max((one for one in PROCESSORS if one <= self.arch), default=80)]


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


def product_tiles(product: Product) -> tuple[Tile, ...]:
    """Tiles by how many rows there are; the last for any number."""
    parts = len(product.packing.parts)
    few = [_few(product, rows) for rows in FEW if rows * parts <= FEW[-1]]
    return (*few, *_many(product))


def _few(product: Product, rows: int) -> Tile:
    packing, parts = product.packing, len(product.packing.parts)
    columns = CHUNK_ROWS if rows * parts <= 16 else CHUNK_ROWS // 2
    steps = _steps(product, columns)
    step = columns * packing.group * parts
    step += rows * packing.group * packing.halves * product.dtype.nbytes
    stages = max(2, min(8, _AHEAD // step + 1))
    split = -(-packing.steps // steps)
    # Two warps: four would be a warp group, whose instructions want the bytes in another order.
    return Tile(
        rows, rows, columns, 2, stages, is_left=True, is_exact=True, split=split, steps=steps
    )


def _steps(product: Product, columns: int) -> int:
    """Steps of one program, so that programs which load together fill the device evenly."""
    packing = product.packing
    blocks = packing.part_chunks[0] * CHUNK_ROWS // columns
    slots = product.processors * _RESIDENT

    def worth(steps: int) -> float:
        split = -(-packing.steps // steps)
        programs = blocks * split
        rounds = -(-programs // slots)
        even = packing.steps / (split * steps)
        return even * programs / (rounds * slots) * (1.0 - _SPLIT_COST * (split - 1))

    if blocks >= 2 * slots:
        return packing.steps
    least = min(packing.steps, max(1, -(-512 // (packing.group * packing.halves))))
    offered = [one for one in range(least, packing.steps + 1) if -(-packing.steps // one) <= 16]
    return max(offered, key=worth)


def _many(product: Product) -> tuple[Tile, ...]:
    packing = product.packing
    is_even, parts = packing.part_chunks[0] % 2 == 0, len(packing.parts)
    stages = 2 if packing.group == 128 else 3
    if product.arch >= _HOPPER:
        columns = 2 * CHUNK_ROWS if is_even and parts == 1 else CHUNK_ROWS
        return (
            Tile(64, 64, CHUNK_ROWS, 4, stages),
            Tile(None, 128, columns, 8, stages),
        )
    return (Tile(None, 64, CHUNK_ROWS, 4, stages, is_left=True, steps=packing.steps),)
