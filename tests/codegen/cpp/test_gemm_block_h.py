"""Products of rows that are ready, as experts have them: rows from anywhere, a matrix for each."""

from __future__ import annotations

import ctypes
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.packing import Layout, pack

from .native import ISAS, aligned, compile_source, run_team

TYPES = {"float": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
# Experts as a kernel would compute them: x[T, S]; w[experts, R, S]; expert e has rows
# ends[e - 1] to ends[e] of the list in `chosen`; y[place in the list, R]. The threads share the
# panels of every expert.
KERNEL = """
static void experts_{w}(const Step& step, Team& team, void* const* a) {{
  const auto* x = static_cast<const float*>(a[0]);
  const auto* packed = static_cast<const {w}*>(a[1]);
  const auto *chosen = static_cast<const int64_t*>(a[2]), *ends = static_cast<const int64_t*>(a[3]);
  auto* y = static_cast<float*>(a[4]);
  const int64_t k = step.S, stride = row_stride(k);
  auto* rows = reinterpret_cast<Input<{w}>*>(team.scratch + BLOCK_SCRATCH);
  for (int64_t e = 0; e < step.P; ++e) {{
    const int64_t begin = e ? ends[e - 1] : 0;
    for (int64_t i = begin; i < ends[e]; ++i)
      for (int64_t c = 0; c < padded<{w}>(k); ++c)
        rows[(i - begin) * stride + c] =
            from_float<Input<{w}>>(c < k ? x[chosen[i] * k + c] : 0);
    Panels<{w}> w[1] = {{{{packed, step.R, k}}}};
    int64_t first, last;
    team.share(w[0].count(), 1, first, last);
    multiply(rows, stride, ends[e] - begin, w, first, last, team.scratch,
             [&](int64_t row, int64_t column, int count, const float* const* acc) {{
               for (int i = 0; i < count; ++i) y[(begin + row) * step.R + column + i] += acc[0][i];
             }});
    packed = w[0].panel(w[0].count());
  }}
}}
"""
SIZES = """
#define EXPORT extern "C" __attribute__((visibility("default"))) int64_t
EXPORT stride(int64_t k) { return row_stride(k); }
EXPORT scratch() { return BLOCK_SCRATCH; }
"""


@cache
def library(isa: str) -> ctypes.CDLL:
    text = '#include "gemm_block.h"\n#include "parallel.h"\nusing namespace gopt;\n' + SIZES
    text += "".join(KERNEL.format(w=kind) for kind in TYPES)
    found = compile_source(
        text, isa, kernels=tuple(f"experts_{kind}" for kind in TYPES), flags=("-O1",)
    )
    found.stride.argtypes, found.stride.restype = [ctypes.c_int64], ctypes.c_int64
    found.scratch.restype = ctypes.c_int64
    return found


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(tuple(TYPES)),
    counts=st.lists(st.one_of(st.integers(0, 20), st.integers(0, 150)), min_size=1, max_size=4),
    columns=st.integers(1, 100),
    k=st.integers(1, 90),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_experts_agree_with_float64(
    isa: str, kind: str, counts: list[int], columns: int, k: int, threads: int, seed: int
) -> None:
    code = library(isa)
    generator = np.random.default_rng(seed)
    experts, total = len(counts), sum(counts)
    x = generator.standard_normal((11, k)).astype(ml_dtypes.bfloat16)
    weight = generator.standard_normal((experts, columns, k)).astype(TYPES[kind])
    bits = weight.view(np.uint16) if kind == "bf16" else weight
    chosen = generator.integers(0, 11, total)
    y = np.zeros((total, columns), np.float32)
    run_team(
        code,
        f"experts_{kind}",
        (
            x.astype(np.float32),
            pack(bits, Layout.whole(columns, k, batch=experts)),
            chosen,
            np.cumsum(counts),
            y if total else aligned(64),
        ),
        sizes=(11, columns, k, experts),
        threads=threads,
        scratch_bytes=code.scratch() + 4 * max(counts) * code.stride(k),
    )
    expert = np.repeat(np.arange(experts), counts)
    exact = np.einsum("rk,rnk->rn", x[chosen].astype(np.float64), weight[expert].astype(np.float64))
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-4)
