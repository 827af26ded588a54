"""Shares of attention's work: every panel of every tile is one thread's, and shares are equal."""

from __future__ import annotations

import ctypes
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .native import ISAS, compile_source

_SOURCE = """
#include "attention_walk.h"
#define EXPORT extern "C" __attribute__((visibility("default"))) int64_t
using namespace gopt;

// Writes {rank, sequence, head, row, rows, low, high, all_low, all_high, panel, panels, first,
// last} of each visit; gives how many there are.
EXPORT visits(const int32_t* starts, const int32_t* lengths, const int32_t* reaches,
              const int64_t* n, int64_t* out) {
  const AttentionBatch batch{starts, lengths, nullptr, n[6] ? reaches : nullptr};
  const AttentionWalk walk{batch, n[0], n[1], n[2], n[3], n[4], int(n[5])};
  const int64_t length = walk.length();
  int64_t count = 0;
  for (int rank = 0; rank < walk.size; ++rank)
    walk.visit_share(length, rank, [&](const AttentionTile& tile, int64_t first, int64_t last) {
      const int64_t found[] = {rank, tile.sequence, tile.kv_head, tile.row, tile.rows, tile.low,
                               tile.high, tile.all_low, tile.all_high, tile.panel, tile.panels,
                               first, last};
      for (int64_t value : found) *out++ = value;
      ++count;
    });
  return count;
}
EXPORT rows() { return ATTENTION_ROWS; }
EXPORT chunk() { return ATTENTION_CHUNK; }
EXPORT reading() { return READING_ROWS; }
EXPORT segment() { return ATTENTION_SEGMENT; }
"""


def _visits(
    lengths: list[int],
    counts: list[int],
    kv_heads: int,
    group: int,
    window: int,
    block: int,
    threads: int,
    reaches: list[int] | None = None,
) -> list[list[int]]:
    library = compile_source(_SOURCE, ISAS[-1], flags=("-O1",))
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    held = np.array(lengths, np.int32)
    has_reach = reaches is not None
    numbers = np.array([len(lengths), kv_heads, group, window, block, threads, has_reach], np.int64)
    ahead = np.array([*(reaches or []), 0], np.int32)
    out = np.zeros((100_000, 13), np.int64)
    library.visits.restype = ctypes.c_int64
    count = library.visits(
        *(ctypes.c_void_p(array.ctypes.data) for array in (starts, held, ahead, numbers, out))
    )
    return out[:count].tolist()  # type: ignore[no-any-return]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kv_heads=st.integers(1, 4),
    group=st.sampled_from((1, 2, 7, 64, 65, 130)),
    window=st.sampled_from((0, 1, 5, 100)),
    block=st.sampled_from((1, 3, 16, 19, 32)),
    threads=st.integers(1, 9),
    reach=st.booleans(),
)
def test_each_panel_is_visited_once(
    seed: int, kv_heads: int, group: int, window: int, block: int, threads: int, reach: bool
) -> None:
    rng = Random(seed)
    lengths = [rng.choice((0, 1, 16, 17, 100, 700)) for _ in range(rng.randint(0, 5))]
    counts = [rng.choice((0, min(1, n), rng.randint(0, min(n, 90)))) for n in lengths]
    ends = [
        own + 1 if not reach else rng.choice((own + 1, length, rng.randint(0, length + 9)))
        for length, count in zip(lengths, counts, strict=True)
        for own in range(length - count, length)
    ]
    visits = _visits(
        lengths, counts, kv_heads, group, window, block, threads, ends if reach else None
    )
    panels_per_block = -(-block // 16)
    covered: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    last_rank = 0
    for rank, s, head, row, rows, *borders, panel, panels, first, last in visits:
        low, high, all_low, all_high = borders
        assert rank >= last_rank
        last_rank = rank
        own = lengths[s] - counts[s]
        assert rows == min(64, counts[s] * group - row)
        tokens = range(row // group, (row + rows - 1) // group + 1)
        seen = [
            [
                j
                for j in range(lengths[s])
                if (j <= own + t or j < ends[sum(counts[:s]) + t])
                and not (window and abs(j - own - t) >= window)
            ]
            for t in tokens
        ]
        assert (low, high) == (min(one[0] for one in seen), max(one[-1] for one in seen) + 1)
        assert all_low == max(one[0] for one in seen)
        assert all_high == min(one[-1] for one in seen) + 1
        found = [j // block * panels_per_block + j % block // 16 for j in (low, high - 1)]
        assert [panel, panel + panels - 1] == found
        assert 0 <= first < last <= panels
        segment = 256 // min(block, 16) // 8 * 8  # cuts are those of the sequence
        assert all(cut in (0, panels) or (panel + cut) % segment == 0 for cut in (first, last))
        pieces = covered.setdefault((s, head, row), [])
        assert (pieces[-1][1] if pieces else 0) == first
        pieces.append((first, last))
    expected = {
        (s, head, row)
        for s, count in enumerate(counts)
        for head in range(kv_heads)
        for row in range(0, count * group, 64)
    }
    assert set(covered) == expected
    for _, s, head, row, *_, panels, _, _ in visits:
        assert covered[s, head, row][-1][1] == panels


@pytest.mark.parametrize("threads", [2, 3, 8, 64])
@pytest.mark.parametrize(
    ("lengths", "counts"),
    [([100_000], [1]), ([2048], [2048]), ([5000, 300, 900], [1, 300, 1]), ([1_000_000], [40])],
)
def test_shares_are_equal(threads: int, lengths: list[int], counts: list[int]) -> None:
    visits = _visits(lengths, counts, 2, 7, 0, 16, threads)
    loads = np.zeros(threads)
    for rank, _, _, _, rows, *_, first, last in visits:
        loads[rank] += (last - first) * (rows + 8)
    # Tiles are cut at multiples of 16 panels, so a share may be off by eight at either end.
    assert loads.max() - loads.mean() <= 2 * 8 * (64 + 8)


def test_the_header_s_numbers() -> None:
    library = compile_source(_SOURCE, ISAS[-1], flags=("-O1",))
    assert [library.rows(), library.chunk(), library.reading()] == [64, 8, 8]
    assert library.segment() == 256
