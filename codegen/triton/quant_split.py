"""The memory in which programs that share rows and columns leave their sums of parts of K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .quant_tiles import Tile


@dataclass(frozen=True, slots=True)
class Work:
    """A workspace: a counter for each block of columns, then the sums.

    Attributes:
        width: columns of one part of the product, of whole chunks if it is packed.
        tiles: how K is split.
        sums: tiles that a program leaves; sums of rows take one too.
    """

    width: int
    tiles: Sequence[Tile]
    sums: int

    @property
    def partials(self) -> int:
        """Bytes before the sums."""
        blocks = [-(-self.width // one.columns) for one in self.tiles if one.split > 1]
        return -(-4 * max(blocks, default=0) // 128) * 128

    @property
    def nbytes(self) -> int:
        """All bytes."""
        found = [
            4 * -(-self.width // one.columns) * one.columns * one.rows * one.split * self.sums
            for one in self.tiles
            if one.split > 1
        ]
        return self.partials + max(found) if found else 0
