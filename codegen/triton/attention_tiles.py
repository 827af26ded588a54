"""How attention is cut: tiles of rows and keys, splits of long sequences, and what they share.

A tile's rows are the query heads that share a head of keys, token after token. Long sequences are
split so that no program has far more keys than others; many tokens want tall tiles, 64 rows for
every four warps, which is what the tensor cores of sm_90 take at once. Which tile is clean (no
register spilled, shared memory for two stages) was read from cubins: its tests read it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, Expr, Symbol, evaluate

from .kernel import Variant
from .tile_scope import power_of_two

# The smallest dimension of a product on tensor cores.
LEAST_DOT = 16
# Rows of a tile for few: a decode's, in a step with prompts too.
FEW_ROWS = LEAST_DOT
# Tiles of so many rows leave out masks where all rows see all keys; below, loads are what takes
# time, and a second loop would only take registers.
_TALL = 64
# Keys that make a split of few rows worth its part of the sum.
SPLIT_KEYS = 256
# Warps that a step should have, as far as its sequences are long enough: two programs of four for
# each of 132 multiprocessors.
_WARPS = 1024
# Parts of a tile that are added up at once, at most.
_MOST_PARTS = 128
# Elements of the parts that a warp adds up at a time, and with large heads where shared memory is
# large too. Which of both leaves no register spilled was read from cubins.
_ADDED, _MORE_ADDED = 256, 1024
# Rows of all parts that are read at once: of more, numbers for each row spill.
_ADDED_PARTS = 128
# Steps of at most so many tokens have variants of their own.
_FEW, _SOME = 64, 512
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


def variants_of(
    heads: Heads, block_size: int, arch: int, *, deterministic: bool = False
) -> tuple[Variant, ...]:
    """The variants of a kernel, from few tokens to many.

    Args:
        heads: what is computed.
        block_size: tokens in a block of the state, a multiple of 16.
        arch: the oldest GPU that they are for, such as 90.
        deterministic: whether there is but one, which splits nothing.
    """
    if deterministic:
        return (_variant(heads, block_size, _tiles(heads, arch)[1], arch, whole=True),)
    few, some, many = (_variant(heads, block_size, tile, arch) for tile in _tiles(heads, arch))
    match heads.tokens:
        case Expr(terms=((((Symbol(name=tokens),)), 1),)):
            return (
                replace(few, below={tokens: _FEW}),
                replace(some, below={tokens: _SOME}),
                many,
            )
    return (many,)


def tall_rows(heads: Heads, arch: int, *, both_ways: bool) -> int:
    """Rows from which on a tile has a loop of its own for keys that all rows see.

    Sums of 512 have no registers left for it, nor much to win: a tile is one or two tokens. Nor
    have heads of 256 on sm_80 where a window goes ``both_ways``: with it 16 bytes are spilled.

    Args:
        heads: what is computed.
        arch: the oldest GPU that it is for, such as 90.
        both_ways: whether rows see what comes after them, and before, in a window.
    """
    widest = 128 if both_ways and not _is_large(arch) else 256
    return _TALL if heads.wide <= widest else _TALL + 1


def workspace_of(heads: Heads, variants: Sequence[Variant]) -> Workspace:
    """The memory for the parts that tiles are split into; the counters come first.

    A tile is split if it takes more than its share of all steps, an EXTRA-th, so it has fewer parts
    than twice its steps by that share; added up over the split tiles, fewer than twice EXTRA.
    """
    counters = rows = 0
    for one in variants:
        records = 2 * one.constants["EXTRA"] * evaluate(one.grid[1], {})
        counters = max(counters, records)
        rows = max(rows, records * one.constants["BLOCK_M"])
    sums_at = _aligned(4 * counters)
    stats_at = _aligned(sums_at + 4 * rows * heads.value_size)
    return Workspace(sums_at, stats_at, stats_at + 8 * rows)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _variant(
    heads: Heads, block_size: int, tile: _Tile, arch: int, *, whole: bool = False
) -> Variant:
    """A tile as a variant without bounds.

    A ``whole`` one gives a program the steps of all sequences as its share: none is split.
    """
    shared = min(heads.group, tile.rows)
    units = heads.keys * -(-heads.group // shared)
    extra = 1 if whole else power_of_two(max(1, _WARPS // tile.warps // units))
    parts = max(2, min(_MOST_PARTS, extra))
    added = min(FEW_ROWS, power_of_two(shared), max(1, _ADDED_PARTS // parts))
    elements = _MORE_ADDED if heads.wide > 64 and _is_large(arch) else _ADDED
    columns = min(power_of_two(heads.value_size), elements * tile.warps // (added * parts))
    constants = {
        "ADDED": added,
        "BLOCK_M": tile.rows,
        "BLOCK_N": tile.keys,
        "BLOCK_SIZE": block_size,
        "COLUMNS": max(1, columns),
        "EXTRA": extra,
        "HEADS": shared,
        "LEAST": max(1, SPLIT_KEYS // tile.keys),
        "SPLITS": parts,
    }
    tiles = heads.tokens // (tile.rows // shared) + heads.sequences
    grid: tuple[Dim, ...] = (tiles + extra, units)
    return Variant("KERNEL_NAME", constants, grid, {}, tile.warps, tile.stages)


def _is_large(arch: int) -> bool:
    """Whether a GPU has much shared memory."""
    return _HOPPER <= arch < _SMALLER


def _tiles(heads: Heads, arch: int) -> tuple[_Tile, _Tile, _Tile]:
    """For few tokens, for some, and for many.

    Without a spilled register on sm_80 and sm_90, by Triton 3.6 and 3.9. On sm_80 heads of 64 in
    64 x 32 take 128 registers and spill, 128 x 64 take 194; heads of 128 in 64 x 64 take 255 and
    spill, 32 keys take 242; heads of 256 take 253 in 64 x 32 by eight warps, and in 16 x 32 they
    spill. On sm_90 heads of 64 in 16 x 64 spill by four warps, not by eight; sums of 512 in 64 rows
    spill with 32 keys, 16 keys take 254. Others have no shared memory for more than 32 rows.
    """
    wide, is_large = heads.wide, _is_large(arch)
    stages = 3 if is_large else 2
    if heads.dtype.nbytes > 2:  # no tensor core computes it
        one = _Tile(16, 32 if wide <= 128 else 16, 4 if wide <= 64 else 8, 2)
        return one, one, one
    if wide <= 64:
        few = _Tile(16, 64, 8 if is_large else 4, stages)
        many = _Tile(128, 64, 8, stages)
        return few, _Tile(64, 64, 4, 3) if is_large else many, many
    if wide <= 128:
        if is_large:
            return _Tile(16, 64, 4, 3), _Tile(64, 64, 4, 3), _Tile(128, 64, 8, 3)
        return _Tile(16, 64, 4, 2), _Tile(64, 32, 4, 3), _Tile(64, 32, 4, 3)
    if wide <= 256:
        # What is cast after it is loaded takes registers, and so does a key in two parts.
        few = _Tile(16, 32, 4 if is_large else 8, stages)
        if heads.stored.nbytes < 2:
            few = _Tile(16, 16, 4, stages)
        is_split = len(parts_of_size(heads.key_size)) > 1
        many = _Tile(64, 16 if is_split and not is_large else 32, 8, 3)
        return few, many, many
    if is_large:
        return _Tile(16, 64, 8, 3), _Tile(64, 16, 8, 2), _Tile(64, 16, 8, 2)
    return _Tile(16, 16, 4, 3), _Tile(32, 16, 8, 2), _Tile(32, 16, 8, 2)
