"""How a product of rows with a weight is cut into programs: tiles, splits of K, pipelines.

before:  the sizes of a product and an architecture
after:   tiles for a few rows, bound by bandwidth, and tiles for many, bound by tensor cores

Few rows read the weight once: what counts is that all multiprocessors load evenly and deeply, so K
is split until there are enough programs. Many rows are computed by as many programs as fit on the
device at once, one tile after the other; where their tiles do not fill the device, K is split too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from graphopt.ir.dtype import DType

from .resources import SHARED_BYTES

# Multiprocessors: of an A100, an RTX 4090, an H100 or H200, a B200.
PROCESSORS: Mapping[int, int] = {80: 108, 86: 84, 89: 128, 90: 132, 100: 148, 120: 170}
# The most rows for which the weight's bytes are what takes the time.
FEW_ROWS = 64
# The first architecture that has wgmma and copies tiles by descriptors.
HOPPER = 90
# Rows of a large step, and tiles for a bucket that are worth timing.
_MANY, _ALTERNATIVES = 4096, 2
# The least columns of x that a program takes where K is split.
_LEAST_K = 256
# What a byte of x costs, which the cache has, where one of the weight costs 1; and what another
# part of K does, a byte of sums that are shared, and the speed of smaller steps. Guesses: no device
# has been asked.
_X_COST, _SPLIT_COST, _SUM_COST, _SHALLOW = 0.3, 0.02, 0.6, 0.95
# Blocks of columns for each multiprocessor from which on K is not split.
_ENOUGH = 4
# The most rows of a step and elements of a tile that are shared, and programs that share a tile:
# the sums of larger tiles leave no registers for adding those of others.
_SHARED_ROWS, _SHARED_TILE, _MOST_SHARED = 512, 128 * 128, 4


@dataclass(frozen=True, slots=True)
class Few:
    """Programs for a few rows: ``blocks`` of columns, each with ``split`` parts of K.

    Attributes:
        rows: the most rows.
        columns: of each part of the product, in one program.
        depth: columns of x in one step.
        split: programs that share a block of columns.
        stages: steps whose loads run ahead.
        warps: of a program.
    """

    rows: int
    columns: int
    depth: int
    split: int
    stages: int
    warps: int = 4

    def steps(self, k: int) -> int:
        """Steps of one program."""
        return -(-k // (self.depth * self.split))


@dataclass(frozen=True, slots=True)
class Many:
    """Tiles of many rows.

    Attributes:
        below: the most rows that they are for; None if any.
        rows: of one tile.
        columns: of each part of the product, in one tile.
        depth: columns of x in one step.
        warps: of a program.
        stages: steps whose loads run ahead.
        resident: programs for each multiprocessor.
        is_flat: whether loads run ahead from one tile into the next.
        is_special: whether some warps load for the others.
        split: programs that share a tile, each with a part of K.
    """

    below: int | None
    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    resident: int = 1
    is_flat: bool = False
    is_special: bool = False
    split: int = 1

    def tiles(self, width: int) -> int:
        """Most tiles of a step, of a product of ``width`` columns."""
        return -(-(self.below or 0) // self.rows) * -(-width // self.columns)


@dataclass(frozen=True, slots=True)
class Size:
    """A product.

    Attributes:
        width: columns of one part of it.
        parts: that are computed side by side.
        k: what is summed over.
        dtype: of what is multiplied.
        in_blocks: whether descriptors can copy its rows and the weight's.
        arch: such as 90.
    """

    width: int
    parts: int
    k: int
    dtype: DType
    in_blocks: bool
    arch: int

    @property
    def processors(self) -> int:
        """Multiprocessors of the device."""
        return PROCESSORS[max((one for one in PROCESSORS if one <= self.arch), default=80)]


def few_tiles(size: Size) -> tuple[Few, ...]:
    """Tiles for at most 16, 32 and 64 rows."""
    return tuple(_few(size, rows) for rows in (16, 32, FEW_ROWS))


def _few(size: Size, rows: int) -> Few:
    """The cut whose programs are spread most evenly over the device."""
    found: list[tuple[float, Few]] = []
    for depth, columns in product(_depths(size), (64, 32, 16)):
        own = columns // size.parts if size.parts in (1, 2, 4) else 16
        if own < 16 or (own >= 2 * size.width and own > 16):
            continue
        blocks = -(-size.width // own)
        for split in _splits(size.k, depth) if blocks < _ENOUGH * size.processors else [1]:
            one = Few(rows, own, depth, split, _stages(size, rows, own, depth))
            found.append((_evenness(size, one, blocks * split), one))
    return max(found, key=lambda pair: pair[0])[1]


def _depths(size: Size) -> list[int]:
    """Columns of x in one step: fewer where more would be mostly padding."""
    first = 32 if size.dtype is DType.F32 else 128
    while first > 16 and first // 2 >= size.k:
        first //= 2
    return [first, first // 2] if first > 64 else [first]


def _splits(k: int, depth: int, most: int = 16) -> list[int]:
    """Numbers of programs that get equally many steps each."""
    steps = -(-k // depth)
    return [n for n in range(1, most + 1) if steps % n == 0 and (n == 1 or k // n >= _LEAST_K)]


def _most_shared(shape: _Shape, rows: int) -> int:
    """Most programs that share a tile of a step of ``rows`` rows."""
    is_large = rows > _SHARED_ROWS or shape.rows * shape.columns > _SHARED_TILE
    return 1 if is_large else _MOST_SHARED


def _evenness(size: Size, one: Few, programs: int) -> float:
    """How well programs that load together fill the device; splits and reading x cost a little."""
    rounds = -(-programs // size.processors)
    even = programs / (rounds * size.processors)
    enough = min(1.0, programs / (2 * size.processors))
    own = 1.0 + _X_COST * one.rows / (one.columns * size.parts)
    shallow = 1.0 if one.depth != 64 else _SHALLOW
    return shallow * even * enough * (1.0 - _SPLIT_COST * (one.split - 1)) / own


def _stages(size: Size, rows: int, columns: int, depth: int) -> int:
    """As deep as leaves room for four programs on a multiprocessor, from 3 to 5."""
    step = (rows + columns * size.parts) * depth * size.dtype.nbytes
    room = SHARED_BYTES.get(size.arch, 99 << 10) // 4
    return max(3, min(5, room // step + 1))


def many_tiles(size: Size, *, for_all: bool = False, may_share: bool = True) -> tuple[Many, ...]:
    """Tiles for more rows, by how many there are; those with equal bounds are alternatives.

    The first of them is what arithmetic says is best; the last are for any number of rows. Tiles
    ``for_all`` numbers of rows, one too, are the smallest: few rows make the most programs so.
    Programs share none unless they ``may_share``.
    """
    if size.dtype is DType.F32:
        return (Many(None, 32, max(16, 32 // size.parts), 32, 4, 2, 2),)
    shapes = _SHAPES[_kind(size)]
    if for_all:
        smallest = sorted(shapes, key=lambda one: one.rows * one.columns)[:_ALTERNATIVES]
        return tuple(_many(size, None, shape) for shape in smallest)
    found: list[tuple[int | None, tuple[tuple[_Shape, int], ...]]] = []
    for below in (128, 256, 512, 1024, None):
        rows = below or _MANY
        cuts = [
            (shape, split)
            for shape in shapes
            for split in _splits(size.k, shape.depth, _most_shared(shape, rows) if may_share else 1)
        ]
        ranked = sorted(cuts, key=lambda one: -_speed(size, one[0], one[1], rows))
        if ranked[0][1] > 1:  # beside it the best of those that share nothing
            ranked[1:] = [one for one in ranked if one[1] == 1]
        ranked = ranked[:_ALTERNATIVES]
        if found and found[-1][1][0] == ranked[0]:
            found.pop()
        found.append((below, tuple(ranked)))
    tiles = [_many(size, below, *one) for below, ranked in found for one in ranked]
    # Warps that load for others want a loop: with one step Triton's pass for it fails.
    if _kind(size) == "descriptors" and size.k > _SPECIAL.depth:
        tiles.append(_many(size, None, _SPECIAL))
    return tuple(tiles)


def _many(size: Size, below: int | None, shape: _Shape, split: int = 1) -> Many:
    """A tile of a shape, its columns shared by the parts of the product."""
    is_special = shape is _SPECIAL
    # Two products in one flat loop wait for each other, and so do those who share a tile.
    is_alone = size.parts == 1 and split == 1
    is_flat = _kind(size) == "descriptors" and is_alone and not is_special
    return Many(
        below,
        shape.rows,
        max(16, shape.columns // size.parts),
        shape.depth,
        shape.warps,
        shape.stages,
        shape.resident,
        is_flat,
        is_special,
        split,
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    """A tile, and how much of the tensor cores it uses when the device is full."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    resident: int
    share: float


# Tiles that spill nothing, serialize nothing and fit, each compiled at all models' shapes.
_SHAPES: Mapping[str, Sequence[_Shape]] = {
    "descriptors": (
        _Shape(128, 256, 64, 8, 3, 1, 1.0),
        _Shape(128, 128, 64, 8, 4, 1, 0.8),
        _Shape(64, 128, 64, 4, 4, 2, 0.7),
        _Shape(64, 64, 64, 4, 4, 3, 0.5),
    ),
    "hopper": (
        _Shape(128, 128, 64, 8, 3, 1, 0.7),
        _Shape(64, 128, 64, 4, 3, 2, 0.65),
        _Shape(64, 64, 64, 4, 4, 2, 0.5),
    ),
    "ampere": (
        _Shape(128, 128, 64, 8, 3, 1, 0.8),
        _Shape(64, 128, 64, 4, 3, 2, 0.75),
        _Shape(64, 64, 64, 4, 3, 2, 0.6),
    ),
}


# The same with warps of their own for loading: an alternative, for nobody has timed it.
_SPECIAL = _Shape(128, 128, 64, 4, 4, 1, 1.0)


def _kind(size: Size) -> str:
    if size.arch < HOPPER:
        return "ampere"
    return "descriptors" if size.in_blocks else "hopper"


def _speed(size: Size, shape: _Shape, split: int, rows: int) -> float:
    """What share of the tensor cores ``rows`` rows use: the last round of tiles is not full.

    Sums that are shared are written and read once; they stay in the cache.
    """
    columns = max(16, shape.columns // size.parts)
    tiles = -(-rows // shape.rows) * -(-size.width // columns)
    slots = size.processors * shape.resident
    rounds = -(-tiles * split // slots)
    useful = rows * size.width / (tiles * shape.rows * columns)
    full = shape.share * useful * tiles * split / (rounds * slots)
    if split == 1:
        return full
    side = shape.rows + columns * size.parts
    sums = 8 * shape.rows * columns * size.parts * split
    shared = 1.0 + _SUM_COST * sums / (side * size.k * size.dtype.nbytes)
    return full * (1.0 - _SPLIT_COST * (split - 1)) / shared
