"""Tiles of every shape and type against matrix products; the exponential and tanh."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from graphopt.ir.dtype import DType

from .attention_batch import Array, decoded, encoded
from .native import ISAS, compile_source

_SOURCE = """
#include "attention_tiles.h"
#define EXPORT extern "C" __attribute__((visibility("default"))) void
using namespace gopt;

template <class T, int COLUMNS>
static void columns(const float* rows, int64_t count, int64_t steps, const T* panels, float* out) {
  constexpr int64_t PAIR = KV_PAIR<T>;
  const int64_t width = steps * PAIR, size = steps * 16 * PAIR;
  static Factor<T> factors[1 << 14];
  for (int64_t i = 0; i < count * width; ++i) factors[i] = from_float<Factor<T>>(rows[i]);
  for_row_tiles(count, [&]<int ROWS>(int64_t row) {
    const T* from[COLUMNS];
    for (int c = 0; c < COLUMNS; ++c) from[c] = panels + c * size;
    f32x16 sum[ROWS][COLUMNS] = {};
    multiply<T>(factors + row * width, width, from, from, 16 * PAIR, steps, sum);
    for (int r = 0; r < ROWS; ++r)
      for (int c = 0; c < COLUMNS; ++c) store(out + ((row + r) * COLUMNS + c) * 16, sum[r][c]);
  });
}
#define TILES(name, T)                                                                       \\
  EXPORT name(const float* rows, int64_t count, int64_t steps, const void* panels, float* out, \\
              int64_t wide) {                                                                \\
    wide ? columns<T, 2>(rows, count, steps, (const T*)panels, out)                          \\
         : columns<T, 1>(rows, count, steps, (const T*)panels, out);                         \\
  }
TILES(tiles_f32, float)
TILES(tiles_bf16, bf16)
TILES(tiles_f16, f16)
EXPORT exp2_of(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) store(x + i, exp2_negative(load(x + i)));
}
EXPORT tanh_of(float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) store(x + i, tanh_bounded(load(x + i)));
}
"""


@pytest.fixture(params=ISAS)
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return compile_source(_SOURCE, request.param, flags=("-O1",))


def _called(function: object, *arrays_and_numbers: Array | int) -> None:
    function(  # type: ignore[operator]
        *(
            ctypes.c_int64(one) if isinstance(one, int) else ctypes.c_void_p(one.ctypes.data)
            for one in arrays_and_numbers
        )
    )


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16])
@pytest.mark.parametrize("columns", [1, 2])
def test_tiles_are_matrix_products(library: ctypes.CDLL, dtype: DType, columns: int) -> None:
    random, pair = np.random.default_rng(3), 1 if dtype is DType.F32 else 2
    for count in range(1, 20):
        steps = (1, 3, 8, 32)[count % 4]
        width = steps * pair
        rows = decoded(encoded(random.normal(size=(count, width)), dtype), dtype)
        keys = random.normal(size=(columns, 16, width))
        packed = keys.reshape(columns, 16, steps, pair).transpose(0, 2, 1, 3)
        panels = encoded(packed, dtype)
        out = np.full((32, columns, 16), np.nan, np.float32)
        given = rows.astype(np.float32)
        _called(getattr(library, f"tiles_{dtype}"), given, count, steps, panels, out, columns - 1)
        held = decoded(panels, dtype).transpose(0, 2, 1, 3).reshape(columns, 16, width)
        np.testing.assert_allclose(
            out[:count], np.einsum("rk,cnk->rcn", rows, held), rtol=1e-5, atol=2e-5
        )


def test_powers_of_two(library: ctypes.CDLL) -> None:
    x = np.concatenate((np.linspace(-126, 0, 1600), -np.geomspace(1e-8, 100, 1600)))
    y = x.astype(np.float32)
    exact = np.exp2(y.astype(np.float64))
    _called(library.exp2_of, y, y.size)
    np.testing.assert_allclose(y, exact, rtol=2.5e-7)
    ends = np.array([0, -0.0, -1, -20, -np.inf, -1e30, -200, np.nan] * 2, np.float32)
    _called(library.exp2_of, ends, ends.size)
    np.testing.assert_array_equal(ends[:8], [1, 1, 0.5, 2**-20, 0, 0, 0, np.nan])


def test_tanh(library: ctypes.CDLL) -> None:
    x = np.concatenate((np.linspace(-20, 20, 3200), [-np.inf, np.inf, np.nan, 0] * 4))
    y = x.astype(np.float32)
    exact = np.tanh(y.astype(np.float64))
    _called(library.tanh_of, y, y.size)
    np.testing.assert_allclose(y, exact, atol=1.5e-7)
