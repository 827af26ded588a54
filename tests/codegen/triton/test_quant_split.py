"""Where programs that share a block of columns leave their sums."""

from __future__ import annotations

from graphopt.codegen.triton.quant_split import Work
from graphopt.codegen.triton.quant_tiles import Tile


def test_nothing_is_shared_without_a_split() -> None:
    assert Work(4096, [Tile(None, 64, 64, 4, 3)], 2).nbytes == 0


def test_a_counter_for_each_block_and_a_tile_for_each_part_of_k() -> None:
    tiles = [
        Tile(8, 8, 64, 2, 3, is_left=True, split=4, steps=8),
        Tile(16, 16, 32, 2, 3, is_left=True, split=2, steps=16),
        Tile(None, 64, 64, 4, 3),
    ]
    work = Work(130, tiles, 3)
    assert work.partials == 128
    sums = [4 * 3 * 64 * 8 * 4 * 3, 4 * 5 * 32 * 16 * 2 * 3]
    assert work.nbytes == 128 + max(sums)
    assert Work(64 * 40, tiles, 1).partials == 4 * 96 - 64 + 64  # 80 blocks, whole lines
