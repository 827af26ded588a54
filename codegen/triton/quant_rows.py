"""Rows of many tokens, rounded to 8 bits by a launch ahead of their product.

before:  a product of many rows with a weight of few bits, or in fp8, which rounds the rows too
after:   a workspace with rows of bytes and how wide their steps are, which products read

Programs that round what they load make each block of columns read and round all rows again. At 2048
rows, a weight [4096, 14336] in groups of 128, and tiles of 128 x 128, there are 32 blocks of
columns and 16 of rows, and 240 GFLOP: 122 us of an H100's tensor cores. Through the second-level
cache went, and go:

    what                    inside                    ahead
    rows, by the product    32 x 58.7 MB of bf16      32 x 29.4 MB of bytes, 32 x 0.9 MB of widths
    rows, by the launch                               58.7 MB read, 30.3 MB written
    weight                  16 x 58.7 MB              16 x 58.7 MB
    all                     2.82 GB                   2.00 GB
    numbers rounded         940 million               29 million

and a row with one width was read twice inside: 4.70 GB in all. The launch itself takes 27 us of
memory's 3.35 TB/s at most; its rows are then in the cache. Descriptors copy bytes to where tensor
cores read them, which rounding had kept in registers. Few rows are not worth a launch: they are
rounded as they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graphopt.ir.shape import Dim, sym

from .anchor import Anchored, Prologue
from .expression import TYPES
from .fill import fill_block, fill_variant
from .kernel import Variant
from .linear_tiles import HOPPER
from .quant_tiles import Tile, processors_of

# Blocks of rows side by side that share columns of the weight.
GROUP = 8


@dataclass(frozen=True, slots=True)
class Ahead:
    """Rounded rows ``[rows, columns]`` in a workspace; then widths ``[groups, rows]``, f32.

    Attributes:
        type: of their numbers, such as ``tl.int8``.
        start: bytes of the workspace before them.
        columns: of a row, in whole steps of the product; zeros past its end.
        depth: columns that have one width.
        is_whole: whether all columns of a row have one.
        sums: numbers of a row that scale it after the product; they follow the widths.
    """

    type: str
    start: int
    columns: int
    depth: int
    is_whole: bool
    sums: int

    @property
    def groups(self) -> int:
        """Widths of a row."""
        return 1 if self.is_whole else self.columns // self.depth

    def nbytes(self, rows: Dim) -> Dim:
        """Bytes of the workspace, with those before them."""
        return rows * (self.columns + 4 * (self.groups + self.sums)) + self.start

    @property
    def mask(self) -> str:
        """What of a block of numbers is stored, as an argument; empty if all."""
        return f", mask=i[None, :] < {self.columns}" * (self.columns % self._block != 0)

    @property
    def width_mask(self) -> str:
        """What of a block of widths is stored, as an argument; empty if all."""
        return f", mask=group < {self.groups}" * (self.columns % self._block != 0)

    @property
    def _block(self) -> int:
        return fill_block(self.columns)


def from_f32(anchored: Anchored, prologue: Prologue) -> Prologue:
    """A prologue whose tile is f32: rounded to another type before, some would be a step off."""
    tile = prologue.tile.removesuffix(f".to({TYPES[anchored.dtype]})")
    return replace(prologue, tile=tile)


def context_of(
    anchored: Anchored, ahead: Ahead, arch: int, others: Sequence[Mapping[str, object]] = ()
) -> dict[str, object]:
    """What the templates of both launches are told.

    Args:
        anchored: the region.
        ahead: its rows.
        arch: such as 90: whether descriptors copy them.
        others: what other descriptors copy.
    """
    is_even = anchored.k % fill_block(ahead.columns) == 0
    x = {
        "name": "x_blocks",
        "base": "x_rows",
        "rows": anchored.symbol,
        "columns": ahead.columns,
        "stride": ahead.columns,
        "block": "BLOCK_M",
    }
    return {
        "ahead": ahead,
        "fill": from_f32(anchored, anchored.prologue(is_even=is_even)),
        "descriptors": [x, *others] if arch >= HOPPER else [],
        "group": GROUP,
        "width": anchored.width,
    }


def variant_of(one: Tile, ahead: Ahead, depth: int, symbol: str, arch: int) -> Variant:
    """Both launches for many rows."""
    programs = processors_of(arch) * one.resident
    constants = {
        "BLOCK_M": one.rows,
        "BLOCK_N": one.columns,
        "BLOCK_K": depth,
        "PROGRAMS": programs,
    }
    below = {} if one.below is None else {symbol: one.below}
    product = Variant("KERNEL_NAME_many", constants, (programs,), below, one.warps, one.stages)
    return fill_variant(ahead.columns, sym(symbol), product)
