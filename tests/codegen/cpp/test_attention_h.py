"""Every instruction set against the reference in float64, on mixed batches in pages of NaN."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState

from .attention_batch import (
    Array,
    Batch,
    Case,
    decoded,
    encoded,
    make_batch,
    memory_of,
    relative_error,
)
from .native import ISAS, compile_source, run_team

_SOURCE = """
#include "attention.h"
using namespace gopt;

struct Full : PlainAttention {
  static constexpr bool HAS_SINKS = true, HAS_ALIBI = true;
  const float *sinks, *slopes;
  float sink(int64_t head) const { return sinks[head]; }
  float slope(int64_t head) const { return slopes[head]; }
};

// a: sizes, factors, queries, slots, keys, values, memory of both, starts, lengths, tables, sinks,
// slopes, reaches, out
template <class Q, class E>
static void attend(const Step& step, Team& team, void* const* a) {
  const int64_t* n = static_cast<const int64_t*>(a[0]);
  const float* factors = static_cast<const float*>(a[1]);
  const AttentionShape shape{n[0], n[1], n[2], n[3], n[4], factors[0], factors[1], n[5] != 0};
  const Queries<Q> queries{static_cast<const Q*>(a[2]), n[6], n[7]};
  const KvLayer layer{a[6], a[7], step.block_size};
  int64_t first, last;
  team.share(n[8], 1, first, last);
  for (int64_t t = first; t < last; ++t) {
    const int64_t slot = static_cast<const int64_t*>(a[3])[t];
    const float* key = static_cast<const float*>(a[4]) + t * n[1] * n[2];
    const float* value = static_cast<const float*>(a[5]) + t * n[1] * n[3];
    if (shape.latent) {
      write_latent<E>(layer, n[1], n[2], slot, key);
    } else {
      write_keys<E>(layer, n[1], n[2], slot, key);
      write_values<E>(layer, n[1], n[3], slot, value);
    }
  }
  team.barrier();
  const AttentionBatch batch{(const int32_t*)a[8], (const int32_t*)a[9], (const int32_t*)a[10],
                             n[10] ? (const int32_t*)a[13] : nullptr};
  if (n[9] == 0) {
    attention<E>(step, team, shape, queries, layer, batch, static_cast<Q*>(a[14]));
  } else {
    Full full;
    full.sinks = static_cast<const float*>(a[11]);
    full.slopes = static_cast<const float*>(a[12]);
    attention<E>(step, team, shape, queries, layer, batch, static_cast<Q*>(a[14]), full);
  }
}
static void scratch(const Step&, Team&, void* const* a) {
  int64_t* n = static_cast<int64_t*>(a[0]);
  n[2] = attention_scratch(n[0], n[1]);
}
"""
_TYPES = {DType.F32: "float", DType.BF16: "bf16", DType.F16: "f16"}
_PAIRS = (
    (DType.F32, DType.F32),
    (DType.BF16, DType.BF16),
    (DType.F16, DType.F16),
    (DType.F32, DType.BF16),
)
_KERNELS = tuple(f"attend_{query}_{state}" for query, state in _PAIRS)
_ENTRIES = "".join(
    f"static void {name}(const Step& s, Team& t, void* const* a) "
    f"{{ attend<{_TYPES[query]}, {_TYPES[state]}>(s, t, a); }}\n"
    for name, (query, state) in zip(_KERNELS, _PAIRS, strict=True)
)
# Of the result, against float64 of the same rounded inputs: a single bf16 number is up to 2^-8 off,
# a f16 one 2^-11, and bf16 probabilities are as much again.
_TOLERANCE = {DType.F32: 2e-6, DType.BF16: 8e-3, DType.F16: 6e-4}


def run(isa: str, batch: Batch, threads: int, *, gap: int = 0, flag: str = "-O1") -> Array:
    """The kernel's result, float64; queries have a gap of so many heads after each row."""
    case, layer = batch.case, batch.case.layer
    tokens, wide = batch.queries.shape[0], case.heads + gap
    queries = np.full((tokens, wide, layer.key_size), np.nan)
    queries[:, : case.heads] = batch.queries
    out = encoded(np.full((tokens, case.heads, layer.value_size), np.nan), case.query)
    plain = not (case.sinks or case.alibi)
    sizes = [case.heads, layer.heads, layer.key_size, layer.value_size, case.window, case.latent]
    sizes += [wide * layer.key_size, layer.key_size, len(batch.slots), not plain, case.reach]
    sinks = batch.sinks if case.sinks else np.full(case.heads, -np.inf)
    slopes = batch.slopes if case.alibi else np.zeros(case.heads)
    library = compile_source(_SOURCE + _ENTRIES, isa, kernels=(*_KERNELS, "scratch"), flags=(flag,))
    measure = np.array([layer.key_size, layer.value_size, 0], np.int64)
    run_team(library, "scratch", [measure])
    run_team(
        library,
        f"attend_{case.query}_{layer.dtype}",
        [
            np.array(sizes, np.int64),
            np.array([case.scale, case.softcap], np.float32),
            encoded(queries, case.query),
            batch.slots,
            batch.keys,
            batch.values,
            *memory_of(case, batch.blocks),
            batch.starts,
            batch.lengths,
            batch.tables,
            sinks.astype(np.float32),
            slopes.astype(np.float32),
            batch.reaches,
            out,
        ],
        sizes=(tokens, 1, len(batch.lengths), batch.tables.shape[1]),
        threads=threads,
        scratch_bytes=int(measure[2]),
        block_size=case.block,
    )
    return decoded(out, case.query)


def check(isa: str, batch: Batch, threads: int, *, gap: int = 0, flag: str = "-O1") -> None:
    out, expected = run(isa, batch, threads, gap=gap, flag=flag), batch.expected()
    case = batch.case
    tolerance = _TOLERANCE[DType.BF16 if case.layer.dtype is DType.BF16 else case.query]
    if case.alibi:  # scores of up to 75, which float32 knows to 1e-5
        tolerance += 2e-5
    # Few results may happen to cancel; the mean of n random numbers is of the order of n ** -0.5.
    longest = max([1, *batch.lengths])
    usual = (np.count_nonzero(expected) / longest) ** 0.5
    error = float(np.linalg.norm(out - expected))
    assert error < tolerance * max(usual, float(np.linalg.norm(expected)), 1e-30)
    assert not out[sum(np.diff(batch.starts)) :].any()


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Any sizes, any additions, sequences that decode, begin, go on, and do nothing."""
    query, state = draw(st.sampled_from(_PAIRS))
    latent = draw(st.booleans())
    kv_heads = draw(st.sampled_from((1, 2, 3)))
    key_size = draw(st.sampled_from((1, 2, 7, 16, 33, 64, 80)))
    value_size = draw(st.sampled_from((1, 6, 16, 40, 64)))
    case = Case(
        LayerState(kv_heads, key_size, min(value_size, key_size) if latent else value_size, state),
        kv_heads * draw(st.sampled_from((1, 2, 3, 7, 8, 20, 70))),
        draw(st.sampled_from((1, 3, 16, 16, 19, 32))),
        query,
        latent,
        window=draw(st.sampled_from((0, 0, 1, 4, 17, 33))),
        softcap=draw(st.sampled_from((0.0, 1.5))),
        sinks=draw(st.booleans()),
        alibi=draw(st.booleans()),
        reach=draw(st.booleans()),
    )
    seed = draw(st.integers(0, 2**32 - 1))
    rng = Random(seed)
    lengths = [rng.choice((0, 1, 2, 5, 17, 33, 150, 300)) for _ in range(rng.randint(0, 4))]
    counts = [rng.choice((0, min(1, n), min(1, n), rng.randint(0, min(n, 40)))) for n in lengths]
    return make_batch(case, lengths, counts, seed)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(batch=batches(), threads=st.integers(1, 3), gap=st.integers(0, 1))
def test_mixed_batches(isa: str, batch: Batch, threads: int, gap: int) -> None:
    check(isa, batch, threads, gap=gap)


@pytest.mark.full
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=400, deadline=None)
@given(batch=batches(), threads=st.integers(1, 3), gap=st.integers(0, 1))
def test_mixed_batches_as_artifacts_are_compiled(
    isa: str, batch: Batch, threads: int, gap: int
) -> None:
    check(isa, batch, threads, gap=gap, flag="-O3")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_one_long_sequence_is_cut_among_threads(isa: str, threads: int) -> None:
    case = Case(LayerState(1, 64, 64, DType.F32), 4, 16, DType.F32)
    check(isa, make_batch(case, [3001], [1], 5), threads)
    check(isa, make_batch(case, [1701, 900], [33, 1], 6), threads)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count", [1, 100])
def test_bf16_is_as_exact_as_its_own_rounding(isa: str, count: int) -> None:
    # Rounding a result to bf16 alone is 1.7e-3 off; 2.3e-3 with as much again, independently.
    case = Case(LayerState(2, 64, 64, DType.BF16), 14, 16, DType.BF16, scale=0.125)
    batch = make_batch(case, [700], [count], 5)
    assert relative_error(run(isa, batch, 2), batch.expected()) < 2.5e-3


@pytest.mark.parametrize("isa", ISAS)
def test_windows_end_anywhere_in_a_panel(isa: str) -> None:
    for window in range(15, 35):
        case = Case(LayerState(1, 4, 4, DType.F32), 1, 16, DType.F32, window=window)
        check(isa, make_batch(case, [50, 51, 66], [3, 1, 5], window), 1)


@pytest.mark.parametrize("isa", ISAS)
def test_new_tokens_begin_anywhere_in_a_panel(isa: str) -> None:
    case = Case(LayerState(1, 4, 4, DType.F32), 1, 16, DType.F32)
    check(isa, make_batch(case, [first + 20 for first in range(17)], [20] * 17, 3), 1)


@pytest.mark.parametrize("isa", ISAS)
def test_multi_head_latent_attention_at_full_size(isa: str) -> None:
    case = Case(LayerState(1, 576, 512, DType.BF16), 128, 16, DType.BF16, latent=True, scale=0.05)
    check(isa, make_batch(case, [70, 9], [1, 2], 5), 2)


@pytest.mark.parametrize("isa", ISAS)
def test_large_scores_do_not_overflow(isa: str) -> None:
    case = Case(LayerState(2, 8, 8, DType.F32), 4, 16, DType.F32, scale=300.0)
    batch = make_batch(case, [200, 40], [1, 20], 5)
    # Scores of thousands are themselves only known to 1e-4.
    assert relative_error(run(isa, batch, 2), batch.expected()) < 2e-5
