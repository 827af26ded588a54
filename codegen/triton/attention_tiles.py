"""How attention is cut: tiles of rows and keys, splits of long sequences, and what they share.

A tile's rows are the query heads that share a head of keys, token after token. Few tokens want many
programs, so their keys are split; many tokens want tall tiles, 64 rows for every four warps, which
is what the tensor cores of sm_90 take at once. Which tile is clean (no register spilled, shared
memory for two stages) was read from cubins: its tests read it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, Expr, Symbol, evaluate

from .kernel import Variant
from .tile_scope import power_of_two

# The smallest dimension of a product on tensor cores.
LEAST_DOT = 16
# Tiles of so many rows leave out masks where all rows see all keys; below, loads are what takes
# time, and a second loop would only take registers.
TALL = 64
# Keys that make a split worth its part of the sum.
SPLIT_KEYS = 256
# Programs that a step of few tokens should have, as far as its sequences are long enough.
_PROGRAMS = 512
# Elements of the parts that one program adds up at a time.
_ADDED = 8192
# Steps of at most so many tokens have variants of their own.
_FEW = (4, 16, 64)
_SOME = 512
# Up to so many sequences in a step of some tokens, those are taken to come many at a time.
_FEW_SEQUENCES = 32
_ALIGNMENT = 128
# GPUs from the first one on, up to the second, multiply by warp groups and have much shared memory.
_HOPPER, _SMALLER = 90, 120


@dataclass(frozen=True, slots=True)
class Part:
    """A run of the entries of a key or a value, as long as a tile can be.

    Attributes:
        start: its first entry.
        size: entries of its tile, a power of two.
        whole: entries that there are from the first part's start to the last one's end.
    """

    start: int
    size: int
    whole: int

    @property
    def places(self) -> str:
        """Its entries."""
        text = f"tl.arange(0, {self.size})"
        return f"{self.start} + {text}" if self.start else text

    @property
    def is_padded(self) -> bool:
        """Whether its tile holds more than there is."""
        return self.start + self.size > self.whole


def parts_of_size(size: int) -> tuple[Part, ...]:
    """One or two tiles that hold ``size`` entries, and little more."""
    whole = power_of_two(max(size, LEAST_DOT))
    first = whole // 2
    rest = power_of_two(max(size - first, LEAST_DOT))
    if first < LEAST_DOT or size <= first or first + rest >= whole:
        return (Part(0, whole, size),)
    return Part(0, first, size), Part(first, rest, size)


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads and sizes of one attention.

    Attributes:
        queries: heads of queries.
        keys: heads of keys.
        key_size: entries of a key.
        value_size: entries of a value.
        is_latent: whether values are the first entries of keys.
        dtype: what products are of.
        stored: what keys and values are kept in.
        tokens: how many tokens a step has.
        sequences: how many sequences.
    """

    queries: int
    keys: int
    key_size: int
    value_size: int
    is_latent: bool
    dtype: DType
    stored: DType
    tokens: Dim
    sequences: Dim

    @property
    def group(self) -> int:
        """Query heads that share a head of keys."""
        return self.queries // self.keys

    @property
    def wide(self) -> int:
        """Entries of the larger of a key's and a value's tiles."""
        sizes = (self.key_size, self.value_size)
        return max(sum(part.size for part in parts_of_size(size)) for size in sizes)


@dataclass(frozen=True, slots=True)
class Workspace:
    """What programs that split a tile leave each other.

    Attributes:
        sums_at: where sums of weighted values begin, after the counters.
        stats_at: where the greatest scores and the sums of weights begin.
        nbytes: all of it.
    """

    sums_at: int
    stats_at: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Tile:
    """One way to cut: rows, keys at a time, warps, stages."""

    rows: int
    keys: int
    warps: int
    stages: int


def variants_of(heads: Heads, block_size: int, arch: int) -> tuple[Variant, ...]:
    """The variants of a kernel, from few tokens to many.

    Args:
        heads: what is computed.
        block_size: tokens in a block of the state, a multiple of 16.
        arch: the oldest GPU that they are for, such as 90.
    """
    found: list[Variant] = []
    few, some, many = _tiles(heads, arch)
    match heads.tokens:
        case Expr(terms=((((Symbol(name=tokens),)), 1),)):
            for bound in _FEW:
                found.append(_variant(heads, block_size, few, {tokens: bound}, bound))
            match heads.sequences:
                case Expr(terms=((((Symbol(name=sequences),)), 1),)):
                    below = {tokens: _SOME, sequences: _FEW_SEQUENCES}
                    found.append(_variant(heads, block_size, some, below, 0))
            found.append(_variant(heads, block_size, few, {tokens: _SOME}, 0))
    return (*found, _variant(heads, block_size, many, {}, 0))


def workspace_of(heads: Heads, variants: Sequence[Variant]) -> Workspace:
    """The memory that the variants with splits need; the counters come first."""
    counters = records = 0
    for one in variants:
        splits = one.constants["SPLITS"]
        if splits > 1:
            most = max(one.below.values())
            counters = max(counters, most * evaluate(one.grid[1], {}))
            records = max(records, most * heads.queries * splits)
    sums_at = _aligned(4 * counters)
    stats_at = _aligned(sums_at + 4 * records * heads.value_size)
    return Workspace(sums_at, stats_at, stats_at + 8 * records)


def columns_of(heads: Heads, rows: int, splits: int) -> int:
    """Entries of a value that the last program adds up at a time."""
    return max(1, min(power_of_two(heads.value_size), _ADDED // (rows * splits)))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _variant(
    heads: Heads, block_size: int, tile: _Tile, below: dict[str, int], split_below: int
) -> Variant:
    """A tile as a variant; ``split_below`` so many tokens, keys are split."""
    shared = min(heads.group, tile.rows)
    units = heads.keys * -(-heads.group // shared)
    splits = 1
    if split_below:
        splits = max(1, min(64, power_of_two(_PROGRAMS // max(1, units * (split_below // 2)))))
    constants = {
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.keys,
        "BLOCK_SIZE": block_size,
        "COLUMNS": columns_of(heads, tile.rows, splits),
        "HEADS": shared,
        "LEAST": max(1, SPLIT_KEYS // tile.keys),
        "SPLITS": splits,
    }
    tiles = heads.tokens // (tile.rows // shared) + heads.sequences
    grid: tuple[Dim, ...] = (tiles, units, splits)
    return Variant("KERNEL_NAME", constants, grid, below, tile.warps, tile.stages)


def _tiles(heads: Heads, arch: int) -> tuple[_Tile, _Tile, _Tile]:
    """For few tokens, for some, and for many.

    Without a spilled register on sm_80 and sm_90: heads of 128 in 64 x 64 take 255 registers and
    spill on sm_80, 32 keys take 192; heads of 256 take 240 in 64 x 32 by eight warps; sums of 512
    take all in 64 rows and spill, 32 rows take 186.
    """
    wide, is_large = heads.wide, _HOPPER <= arch < _SMALLER
    if heads.dtype.nbytes > 2:  # no tensor core computes it
        one = _Tile(16, 32 if wide <= 128 else 16, 4 if wide <= 64 else 8, 2)
        return one, one, one
    if wide <= 64:
        if is_large:
            return _Tile(16, 64, 4, 3), _Tile(64, 64, 4, 3), _Tile(128, 64, 8, 3)
        return _Tile(16, 64, 4, 3), _Tile(64, 32, 4, 2), _Tile(128, 64, 8, 2)
    if wide <= 128:
        if is_large:
            return _Tile(16, 64, 4, 3), _Tile(64, 64, 4, 3), _Tile(128, 64, 8, 3)
        return _Tile(16, 64, 4, 3), _Tile(64, 32, 4, 3), _Tile(64, 32, 4, 3)
    if wide <= 256:
        # What is cast after it is loaded takes registers, and so does a key in two parts.
        few = _Tile(16, 16 if heads.stored.nbytes < 2 else 32, 4, 3)
        is_split = len(parts_of_size(heads.key_size)) > 1
        many = _Tile(64, 16 if is_split and not is_large else 32, 8, 3)
        return few, many, many
    if is_large:
        return _Tile(16, 64, 8, 3), _Tile(32, 32, 8, 3), _Tile(32, 32, 8, 3)
    return _Tile(16, 16, 4, 3), _Tile(32, 16, 8, 2), _Tile(32, 16, 8, 2)
