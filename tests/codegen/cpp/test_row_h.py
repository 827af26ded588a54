"""Folds over columns and functions of lines, at every length and with infinities and NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .native import compile_source, run_team
from .row_cases import EVERY_ISA

_SOURCE = """
#include "row.h"
namespace gopt {
static void folds(const Step& step, Team&, void* const* a) {
  const float* x = (const float*)a[0];
  float* out = (float*)a[1];
  const auto at = [&](int64_t i, auto n) { return load_n(x + i, n); };
  out[0] = sum_columns(step.T, at);
  out[1] = max_columns(step.T, at);
  out[2] = min_columns(step.T, at);
  out[3] = product_columns(step.T, at);
}
static void lines(const Step& step, Team&, void* const* a) {
  const float* x = (const float*)a[0];
  float* values = (float*)a[1];
  int64_t* places = (int64_t*)a[2];
  sort_line(x, step.T, step.P, values, places);
  top_k(x, step.T, step.R, step.P, (float*)a[3], (int64_t*)a[4]);
  argmax(x, step.T, (int64_t*)a[5]);
  running_sum(x, step.T, (float*)a[6]);
}
}  // namespace gopt
using namespace gopt;
"""
_KERNELS = ("folds", "lines")
_LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 100)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_folds(isa: str) -> None:
    library = compile_source(_SOURCE, isa, kernels=_KERNELS, flags=("-O1",))
    rng = np.random.default_rng(0)
    for count in (0, *_LENGTHS):
        x = np.full(count + 40, np.nan, np.float32)  # what stands behind must not count
        x[:count] = rng.uniform(0.9, 1.1, count)
        out = np.zeros(4, np.float32)
        run_team(library, "folds", [x, out], sizes=(count, 1, 1, 1))
        own = x[:count].astype(np.float64)
        greatest, least = (own.max(), own.min()) if count else (-np.inf, np.inf)
        np.testing.assert_allclose(out, [own.sum(), greatest, least, own.prod()], rtol=2e-6)
        if count:
            x[rng.integers(count)] = np.nan
            run_team(library, "folds", [x, out], sizes=(count, 1, 1, 1))
            assert np.isnan(out).all()


@pytest.mark.parametrize("isa", EVERY_ISA)
@pytest.mark.parametrize("greatest", [True, False])
def test_lines(isa: str, greatest: bool) -> None:
    library = compile_source(_SOURCE, isa, kernels=_KERNELS, flags=("-O1",))
    rng = np.random.default_rng(1)
    for count in _LENGTHS:
        x = rng.integers(-5, 5, count).astype(np.float32)  # many are equal
        x[rng.random(count) < 0.1] = np.nan
        k = int(rng.integers(1, count + 1))
        values, best = np.zeros(count, np.float32), np.zeros(k, np.float32)
        places, which = np.zeros(count, np.int64), np.zeros(k, np.int64)
        first, sums = np.zeros(1, np.int64), np.zeros(count, np.float32)
        arrays = [x, values, places, best, which, first, sums]
        run_team(library, "lines", arrays, sizes=(count, k, 1, int(greatest)))
        given = torch.from_numpy(x)
        want = torch.sort(given, descending=greatest, stable=True)
        np.testing.assert_array_equal(values, want.values.numpy())
        np.testing.assert_array_equal(places, want.indices.numpy())
        np.testing.assert_array_equal(best, values[:k])
        np.testing.assert_array_equal(which, places[:k])  # of equal ones the first comes first
        assert first[0] == np.argmax(np.nan_to_num(x, nan=np.inf))
        np.testing.assert_allclose(sums, np.cumsum(x), rtol=1e-6)
