"""Sums of segments join to the same bits, however a tile is shared out and wherever it begins."""

from __future__ import annotations

import ctypes
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .attention_batch import Batch, Case, DType, LayerState, make_batch
from .native import ISAS, aligned, compile_source
from .test_attention_h import run

_SOURCE = """
#include "attention_join.h"
#define EXPORT extern "C" __attribute__((visibility("default"))) int64_t
using namespace gopt;

constexpr int64_t ROWS = 3, SIZE = 20;

// Sums of segments [cuts[0], cuts[parts]), a thread for each part; the first has the beginning.
// segments: for each a top and a sum for each row, then values [ROWS][32]
EXPORT join(const float* segments, const int64_t* cuts, int64_t parts, char* scratch, float* out) {
  const int64_t each = ROWS * (2 + 32), bytes = Joining::bytes(SIZE);
  Joining own(scratch, SIZE);
  for (int64_t part = parts - 1; part >= 0; --part) {
    char* memory = scratch + part * bytes;
    Joining joining(memory, SIZE);
    joining.begin(part == 0);
    for (int64_t s = cuts[part]; s < cuts[part + 1]; ++s) {
      const Partial partial = joining.open(s, ROWS);
      const float* given = segments + (s - cuts[0]) * each;
      for (int64_t r = 0; r < ROWS; ++r) {
        partial.top[r] = given[r];
        partial.sum[r] = given[ROWS + r];
      }
      std::memcpy(partial.values, given + 2 * ROWS, ROWS * 32 * 4);
    }
    if (joining.count > (part ? Joining::OTHER : Joining::OWN)) return -1;
    if (part) joining.publish(); else own = joining;
  }
  for (int64_t part = 1; part < parts; ++part) own.take(scratch + part * bytes, ROWS);
  const Partial all = own.all(ROWS);
  for (int64_t r = 0; r < ROWS; ++r) {
    for (int64_t d = 0; d < SIZE; ++d) out[r * SIZE + d] = all.values[r * 32 + d] / all.sum[r];
  }
  return 0;
}
EXPORT bytes() { return Joining::bytes(SIZE); }
"""
_ROWS, _SIZE = 3, 20
Floats = npt.NDArray[np.float32]


def _segments(seed: int, count: int) -> Floats:
    """Random sums of segments: row 0 sees all of them, row 1 the first half, row 2 the second."""
    random = np.random.default_rng(seed)
    found = np.zeros((count, _ROWS * 34), np.float32)
    for number, one in enumerate(found):
        one[:_ROWS] = random.normal(size=_ROWS) * 3
        one[_ROWS : 2 * _ROWS] = random.random(_ROWS) + 0.5
        values = one[2 * _ROWS :].reshape(_ROWS, 32)
        values[:, :_SIZE] = random.normal(size=(_ROWS, _SIZE))
        for row, hidden in ((1, number > count // 2), (2, number < count // 2)):
            if hidden:
                one[row], one[_ROWS + row], values[row] = -np.inf, 0, 0
    return found


def _joined(segments: Floats, first: int, inner: list[int]) -> Floats:
    """Rows over all of ``segments``, of which the first is number ``first``, with cuts between."""
    library = compile_source(_SOURCE, ISAS[-1], flags=("-O1",))
    library.bytes.restype = library.join.restype = ctypes.c_int64
    cuts = np.array([first, *(first + cut for cut in inner), first + len(segments)], np.int64)
    parts = len(cuts) - 1
    scratch = aligned(parts * library.bytes())
    out = np.full((_ROWS, _SIZE), np.nan, np.float32)
    given = np.ascontiguousarray(segments)
    places = [ctypes.c_void_p(one.ctypes.data) for one in (given, cuts, scratch, out)]
    status = library.join(*places[:2], ctypes.c_int64(parts), *places[2:])
    assert status == 0
    return out


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 70),
    first=st.sampled_from((0, 1, 2, 3, 5, 12, 31, 64)),
    parts=st.integers(1, 7),
)
def test_any_cuts_give_the_same_bits(seed: int, count: int, first: int, parts: int) -> None:
    rng = Random(seed)
    segments = _segments(seed, count)
    whole = _joined(segments, first, [])
    inner = sorted(rng.sample(range(1, count), min(parts, count) - 1)) if count > 1 else []
    assert (_joined(segments, first, inner) == whole).all()
    wide = segments.astype(np.float64)
    weights = np.exp2(wide[:, :_ROWS] - wide[:, :_ROWS].max(0))
    sums = (weights * wide[:, _ROWS : 2 * _ROWS]).sum(0)
    values = wide[:, 2 * _ROWS :].reshape(count, _ROWS, 32)[..., :_SIZE]
    expected = (weights[..., None] * values).sum(0) / sums[:, None]
    assert np.abs(whole - expected).max() < 1e-4 * np.abs(expected).max()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 40),
    before=st.integers(0, 9),
    after=st.integers(0, 9),
)
def test_segments_without_keys_change_no_bit(
    seed: int, count: int, before: int, after: int
) -> None:
    segments = _segments(seed, count)
    nothing = np.zeros((1, segments.shape[1]), np.float32)
    nothing[:, :_ROWS] = -np.inf
    padded = np.concatenate([nothing.repeat(before, 0), segments, nothing.repeat(after, 0)])
    assert (_joined(padded, 20 - before, []) == _joined(segments, 20, [])).all()


def test_the_longest_sequence_fits() -> None:
    # As many sums wait as ever can: parts begin and end where nothing is whole.
    count = (1 << 17) - 1
    segments = np.ascontiguousarray(np.broadcast_to(_segments(3, 1), (count, _ROWS * 34)))
    assert (_joined(segments, 0, [1]) == _joined(segments, 0, [])).all()


def _only(batch: Batch, sequence: int, first: int, count: int) -> Batch:
    """``count`` queries from the ``first`` on, of one sequence, as a step of their own."""
    start, new = batch.starts[sequence], batch.starts[sequence + 1] - batch.starts[sequence]
    length = batch.lengths[sequence] - (new - first - count)
    return Batch(
        batch.case,
        batch.queries[start + first : start + first + count],
        batch.slots,
        batch.keys,
        batch.values,
        np.array([0, count], np.int32),
        np.array([length], np.int32),
        batch.tables[sequence : sequence + 1],
        batch.blocks,
        batch.sinks,
        batch.slopes,
        batch.reaches[start + first : start + first + count],
    )


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=12, deadline=None)
@given(
    dtype=st.sampled_from((DType.F32, DType.BF16)),
    block=st.sampled_from((3, 16, 19, 64)),
    window=st.sampled_from((0, 40, 300)),
    group=st.sampled_from((1, 3, 7)),
    latent=st.booleans(),
    sinks=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_row_has_the_same_bits_in_any_step(
    isa: str,
    dtype: DType,
    block: int,
    window: int,
    group: int,
    latent: bool,
    sinks: bool,
    seed: int,
) -> None:
    layer = LayerState(2, 16, 16, dtype)
    scale = 0.3  # no power of two: where it is multiplied shows
    case = Case(layer, 2 * group, block, dtype, latent, scale, window, sinks=sinks)
    rng = Random(seed)
    lengths = [rng.choice((5, 300, 900)), rng.randint(600, 1300), 40]
    counts = [1, rng.randint(30, 90), 7]
    batch = make_batch(case, lengths, counts, seed)
    whole = run(isa, batch, rng.choice((1, 2, 5)))
    for sequence, count in enumerate(counts):
        start = int(batch.starts[sequence])
        first = rng.randrange(count)
        some = rng.randint(1, count - first)
        alone = run(isa, _only(batch, sequence, first, some), rng.choice((1, 3)))
        assert (alone == whole[start + first : start + first + some]).all()


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=12, deadline=None)
@given(
    dtype=st.sampled_from((DType.F32, DType.BF16, DType.F16)),
    block=st.sampled_from((3, 16, 19, 64)),
    window=st.sampled_from((0, 40, 300)),
    group=st.sampled_from((1, 3, 7)),
    latent=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_row_that_reaches_ahead_has_the_same_bits_in_any_step(
    isa: str, dtype: DType, block: int, window: int, group: int, latent: bool, seed: int
) -> None:
    query = DType.F32 if dtype is DType.BF16 else dtype
    case = Case(
        LayerState(2, 16, 16, dtype), 2 * group, block, query, latent, window=window, reach=True
    )
    rng = Random(seed)
    counts = [rng.randint(200, 700), 30, rng.randint(1, 90), 1]
    batch = make_batch(case, [counts[0], 30, 400, 9], counts, seed)
    batch.reaches[: counts[0] + 30] = 10_000
    whole = run(isa, batch, rng.choice((1, 2, 5)))
    for sequence, count in enumerate(counts):
        start = int(batch.starts[sequence])
        first = rng.randrange(count)  # to the end: what they reach has to be there
        alone = run(isa, _only(batch, sequence, first, count - first), rng.choice((1, 3)))
        assert (alone == whole[start + first : start + count]).all()
