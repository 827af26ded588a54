"""Rows written one token at a time stand where the layout says, and nothing else is touched."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState
from graphopt.kv_layout import kv_bytes

from .native import ISAS, aligned, compile_source, run_team

_SOURCE = """
#include "kv.h"
#include "parallel.h"
using namespace gopt;

// sizes: heads, key size, value size; then slots[T], keys[T], values[T], memory of both
template <class E>
static void write(const Step& step, Team& team, void* const* a) {
  const int64_t* sizes = static_cast<const int64_t*>(a[0]);
  const int64_t* slots = static_cast<const int64_t*>(a[1]);
  const KvLayer layer{a[4], a[5], step.block_size};
  int64_t first, last;
  team.share(step.T, 1, first, last);
  for (int64_t t = first; t < last; ++t) {
    write_keys<E>(layer, sizes[0], sizes[1], slots[t], (float*)a[2] + t * sizes[0] * sizes[1]);
    write_values<E>(layer, sizes[0], sizes[2], slots[t], (float*)a[3] + t * sizes[0] * sizes[2]);
  }
}
static void write_f32(const Step& s, Team& t, void* const* a) { write<float>(s, t, a); }
static void write_bf16(const Step& s, Team& t, void* const* a) { write<bf16>(s, t, a); }
static void write_f16(const Step& s, Team& t, void* const* a) { write<f16>(s, t, a); }
"""
_KERNELS = ("write_f32", "write_bf16", "write_f16")
_FILL = 0xAB


def _decoded(memory: npt.NDArray[np.uint8], dtype: DType) -> npt.NDArray[np.float64]:
    if dtype is DType.F32:
        return memory.view(np.float32).astype(np.float64)
    if dtype is DType.F16:
        return memory.view(np.float16).astype(np.float64)
    return (memory.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from((DType.F32, DType.BF16, DType.F16)),
    heads=st.integers(1, 3),
    key_size=st.sampled_from((1, 2, 7, 16, 33)),
    value_size=st.sampled_from((1, 5, 16, 40)),
    block=st.sampled_from((1, 3, 16, 19, 32)),
)
def test_layout(
    isa: str, seed: int, dtype: DType, heads: int, key_size: int, value_size: int, block: int
) -> None:
    rng, blocks, tokens = np.random.default_rng(seed), 3, Random(seed).randint(1, 3 * block)
    slots = rng.permutation(blocks * block)[:tokens].astype(np.int64)
    slots[rng.random(tokens) < 0.2] = -1
    keys = rng.integers(-64, 64, (tokens, heads, key_size)).astype(np.float32)
    values = rng.integers(-64, 64, (tokens, heads, value_size)).astype(np.float32)
    layer = LayerState(heads, key_size, value_size, dtype)
    key_memory, value_memory = (aligned(blocks * size, _FILL) for size in kv_bytes(layer, block))
    sizes = np.array([heads, key_size, value_size], np.int64)
    library = compile_source(_SOURCE, isa, kernels=_KERNELS)
    run_team(
        library,
        f"write_{dtype}",
        [sizes, slots, keys, values, key_memory, value_memory],
        sizes=(tokens, 1, 1, 1),
        threads=2,
        block_size=block,
    )
    pair, padded = (1 if dtype is DType.F32 else 2), -(-block // 16) * 16
    untouched = _decoded(np.full(4, _FILL, np.uint8), dtype)[0]
    key_shape = (blocks, heads, padded // 16, -(-key_size // pair), 16, pair)
    by_key = _decoded(key_memory, dtype).reshape(key_shape)
    by_token = by_key.transpose(0, 2, 4, 1, 3, 5).reshape(blocks, padded, heads, -1)
    want = np.full_like(by_token, untouched)
    value_shape = (blocks, heads, padded // pair, -(-value_size // 16) * 16, pair)
    by_value = _decoded(value_memory, dtype).reshape(value_shape)
    values_by_token = by_value.transpose(0, 2, 4, 1, 3).reshape(blocks, padded, heads, -1)
    want_values = np.full_like(values_by_token, untouched)
    for slot, key, value in zip(slots, keys, values, strict=True):
        if slot >= 0:
            want[slot // block, slot % block] = 0
            want[slot // block, slot % block, :, :key_size] = key
            want_values[slot // block, slot % block, :, :value_size] = value
    np.testing.assert_array_equal(by_token, want)
    np.testing.assert_array_equal(values_by_token, want_values)
