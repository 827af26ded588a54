"""Rows of matrices that lie anywhere: converted, padded, and nothing read past their ends."""

from __future__ import annotations

import ctypes
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .native import ISAS, aligned, compile_source, run_team

TYPES = {"float": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
# Row T of x, whose columns are P apart, from column R on, S of them; and every second of its first
# numbers, up to sixteen.
KERNEL = """
static void rows_{t}_{w}(const Step& step, Team&, void* const* a) {{
  const Strided<{t}> x{{(const {t}*)a[0], 64, step.P}};
  take_row(x, step.T, step.R, step.S, (float*)a[1]);
  Input<{w}> row[128];
  take_input<{w}>(x, step.T, step.S, row);
  for (int64_t i = 0; i < padded<{w}>(step.S); ++i) ((float*)a[2])[i] = to_float(row[i]);
  store((float*)a[3], load_every<2>((const {t}*)a[0], int(step.S < 16 ? step.S : 16)));
  *(float*)a[4] = to_float(x(step.T, 1));
}}
"""


@cache
def library(isa: str) -> ctypes.CDLL:
    text = '#include "parallel.h"\n#include "strided.h"\nusing namespace gopt;\n'
    text += "".join(KERNEL.format(t=t, w=w) for t in TYPES for w in TYPES)
    names = tuple(f"rows_{t}_{w}" for t in TYPES for w in TYPES)
    return compile_source(text, isa, kernels=names, flags=("-O1",))


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(tuple(TYPES)),
    weight=st.sampled_from(tuple(TYPES)),
    count=st.integers(1, 20),
    first=st.integers(0, 11),
    row=st.integers(0, 3),
    step=st.sampled_from((1, 2)),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_are_what_numpy_finds(
    isa: str, kind: str, weight: str, count: int, first: int, row: int, step: int, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal((4, 64)).astype(TYPES[kind])
    part, whole, every, one = (aligned(512).view(np.float32) for _ in range(4))
    sizes = (row, first, count, step)
    run_team(library(isa), f"rows_{kind}_{weight}", (x, part, whole, every, one), sizes=sizes)
    wide = x.astype(np.float32)
    np.testing.assert_array_equal(part[:count], wide[row, ::step][first : first + count])
    assert np.all(np.isnan(part[count:]))
    assert one[0] == wide[row, step]
    rounds = weight == "bf16" and isa == "avx512"
    inputs = wide[row, ::step][:count]
    if rounds:
        inputs = inputs.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(whole[:count], inputs)
    padding = 0 if weight == "float" else count % 2
    assert np.all(whole[count : count + padding] == 0)
    assert np.all(np.isnan(whole[count + padding :]))
    lanes = np.zeros(16, np.float32)
    lanes[: min(count, 16)] = wide.reshape(-1)[: 2 * min(count, 16) : 2]
    np.testing.assert_array_equal(every[:16], lanes)
