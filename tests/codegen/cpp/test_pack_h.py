"""Headers and graphopt.packing agree on where a number of a weight lies."""

from __future__ import annotations

import ctypes
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.packing import Layout, pack

from .native import ISAS, compile_source, run_team

TYPES = {"float": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
# Rows of a packed weight [R, S] whose numbers are the T in a[1].
ROWS = """
static void rows_{t}(const Step& step, Team&, void* const* a) {{
  const int64_t* rows = static_cast<const int64_t*>(a[1]);
  for (int64_t i = 0; i < step.T; ++i)
    row_of(static_cast<const {t}*>(a[0]), rows[i], step.S, static_cast<float*>(a[2]) + i * step.S);
}}
static void panels_{t}(const Step& step, Team&, void* const* a) {{
  const Panels<{t}> w{{static_cast<const {t}*>(a[0]), step.R, step.S}};
  static_cast<int64_t*>(a[1])[0] = w.count();
  static_cast<int64_t*>(a[1])[1] = (const char*)w.panel(w.count()) - (const char*)w.data;
}}
"""
# All of a[0], T steps of 32 sixteen-bit numbers: sixteen even ones, sixteen odd ones.
SPLIT = """
static void split_{t}(const Step& step, Team&, void* const* a) {{
  for (int64_t i = 0; i < step.T * 32; i += 32) {{
    f32x16 even, odd;
    split(static_cast<const {t}*>(a[0]) + i, even, odd);
    store(static_cast<float*>(a[1]) + i, even);
    store(static_cast<float*>(a[1]) + i + 16, odd);
  }}
}}
"""


@cache
def library(isa: str) -> ctypes.CDLL:
    text, names = '#include "pack.h"\n#include "parallel.h"\nusing namespace gopt;\n', []
    for kind in TYPES:
        text += ROWS.format(t=kind)
        names += [f"rows_{kind}", f"panels_{kind}"]
    for kind in ("bf16", "f16"):
        text += SPLIT.format(t=kind)
        names.append(f"split_{kind}")
    return compile_source(text, isa, kernels=tuple(names), flags=("-O1",))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", tuple(TYPES))
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 50), columns=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_a_row_comes_back(isa: str, kind: str, rows: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((rows, columns), dtype=np.float32).astype(TYPES[kind])
    bits = weight.view(np.uint16) if kind == "bf16" else weight
    packed = pack(bits, Layout.whole(rows, columns))
    wanted = generator.integers(0, rows, 7)
    got = np.full((7, columns), np.nan, np.float32)
    run_team(library(isa), f"rows_{kind}", (packed, wanted, got), sizes=(7, rows, columns, 1))
    np.testing.assert_array_equal(got, weight[wanted].astype(np.float32))
    sizes = np.zeros(2, np.int64)
    run_team(library(isa), f"panels_{kind}", (packed, sizes), sizes=(1, rows, columns, 1))
    assert sizes.tolist() == [packed.shape[1], packed.nbytes]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_every_number_splits_exactly(isa: str, kind: str) -> None:
    numbers = np.arange(2**16, dtype=np.uint16).view(TYPES[kind])
    numbers = np.concatenate((numbers, np.roll(numbers, 1)))  # each in an even and an odd place
    steps = numbers.size // 32
    got = np.full((steps, 2, 16), 7, np.float32)
    run_team(library(isa), f"split_{kind}", (numbers, got), sizes=(steps, 1, 1, 1))
    expected = numbers.astype(np.float32).reshape(steps, 16, 2).transpose(0, 2, 1)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], expected.copy().view(np.uint32)[~nan])
