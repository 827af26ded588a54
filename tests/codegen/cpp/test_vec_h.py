"""Sixteen numbers at a time: conversions of every bit pattern, ragged ends, NaN, and sums."""

from __future__ import annotations

import ctypes
from functools import cache

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from .native import ISAS, compile_source, run_team

TYPES = {"bf16": ml_dtypes.bfloat16, "f16": np.float16}
HEAD = '#include "parallel.h"\nusing namespace gopt;\n'
# a[0] to a[1], T elements, a multiple of sixteen; and the same one by one.
CONVERT = """
static void widen_{t}(const Step& step, Team&, void* const* a) {{
  const auto* from = static_cast<const {t}*>(a[0]);
  auto *to = static_cast<float*>(a[1]), *one = static_cast<float*>(a[2]);
  for (int64_t i = 0; i < step.T; i += 16) store(to + i, load(from + i));
  for (int64_t i = 0; i < step.T; ++i) one[i] = to_float(from[i]);
}}
static void narrow_{t}(const Step& step, Team&, void* const* a) {{
  const auto* from = static_cast<const float*>(a[0]);
  auto *to = static_cast<{t}*>(a[1]), *one = static_cast<{t}*>(a[2]);
  for (int64_t i = 0; i < step.T; i += 16) store(to + i, load(from + i));
  for (int64_t i = 0; i < step.T; ++i) one[i] = from_float<{t}>(from[i]);
}}
"""
# The first T of a[0], by way of sixteen lanes in a[1], to a[2].
RAGGED = """
static void ragged_{t}(const Step& step, Team&, void* const* a) {{
  const f32x16 lanes = load_n(static_cast<const {t}*>(a[0]), int(step.T));
  store(static_cast<float*>(a[1]), lanes);
  store_n(static_cast<{t}*>(a[2]), lanes, int(step.T));
}}
"""
# Each of seven functions of a[0] and a[1], T rows of sixteen lanes, to T rows of a[2 ...].
ARITHMETIC = """
static void arithmetic(const Step& step, Team&, void* const* a) {
  const auto *x = static_cast<const float*>(a[0]), *y = static_cast<const float*>(a[1]);
  const auto out = [&](int i) { return static_cast<float*>(a[i]); };
  for (int64_t i = 0; i < step.T * 16; i += 16) {
    const f32x16 u = load(x + i), v = load(y + i);
    store(out(2) + i, maximum(u, v));
    store(out(3) + i, minimum(u, v));
    store(out(4) + i, fma(u, v, u));
    store(out(5) + i, select(u < v, u, v));
    store(out(6) + i, to_f32(to_i32(u)));
    for (int j = 0; j < 16; ++j) {
      out(7)[i + j] = maximum(x[i + j], y[i + j]);
      out(8)[i + j] = minimum(x[i + j], y[i + j]);
    }
    out(9)[i / 16] = sum(u);
    out(10)[i / 16] = largest(u);
  }
}
"""


@cache
def library(isa: str) -> ctypes.CDLL:
    text, names = HEAD + ARITHMETIC, ["arithmetic"]
    for kind in TYPES:
        text += CONVERT.format(t=kind)
        names += [f"widen_{kind}", f"narrow_{kind}"]
    for kind in ("float", *TYPES):
        text += RAGGED.format(t=kind)
        names.append(f"ragged_{kind}")
    return compile_source(text, isa, kernels=tuple(names), flags=("-O1",))


def same(got: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> None:
    """Equal to the bit, but that one NaN is as good as another."""
    bits = np.uint16 if got.dtype.itemsize == 2 else np.uint32
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), nan)
    np.testing.assert_array_equal(got.view(bits)[~nan], expected.view(bits)[~nan])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", tuple(TYPES))
def test_every_sixteen_bit_number_widens_exactly(isa: str, kind: str) -> None:
    numbers = np.arange(2**16, dtype=np.uint16).view(TYPES[kind])
    got = np.full((2, 2**16), 7, np.float32)
    run_team(library(isa), f"widen_{kind}", (numbers, got[0], got[1]), sizes=(2**16, 1, 1, 1))
    expected = numbers.astype(np.float32)
    same(got[0], expected)
    same(got[1], expected)


def floats_around(kind: str) -> npt.NDArray[np.float32]:
    """Every number of ``kind``, what lies half-way to the next, its neighbours, and any floats."""
    numbers = np.arange(2**16, dtype=np.uint16).view(TYPES[kind]).astype(np.float32)
    after = np.roll(numbers, -1)
    with np.errstate(invalid="ignore", over="ignore"):
        half = (numbers.astype(np.float64) + (after - numbers.astype(np.float64)) / 2).astype(
            np.float32
        )
        near = [np.nextafter(half, np.float32(to)) for to in (-np.inf, np.inf)]
    bits = np.random.default_rng(1).integers(0, 2**32, 2**17, dtype=np.uint32)
    return np.concatenate((numbers, half, *near, bits.view(np.float32)))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", tuple(TYPES))
def test_floats_narrow_to_the_nearest_number(isa: str, kind: str) -> None:
    numbers = floats_around(kind)
    count = numbers.size
    got = np.full((2, count), 7, np.uint16).view(TYPES[kind])
    run_team(library(isa), f"narrow_{kind}", (numbers, got[0], got[1]), sizes=(count, 1, 1, 1))
    with np.errstate(over="ignore"):
        expected = numbers.astype(TYPES[kind])
    same(got[1], expected)
    if (isa, kind) == ("avx512", "bf16"):  # the instruction takes numbers below 2^-126 as zeros
        tiny = np.abs(numbers) < np.finfo(np.float32).tiny
        expected[tiny] = np.copysign(np.float32(0), numbers[tiny]).astype(TYPES[kind])
    same(got[0], expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["float", *TYPES])
def test_ragged_ends_touch_nothing_else(isa: str, kind: str) -> None:
    dtype = np.dtype(TYPES.get(kind, np.float32))
    for count in range(17):
        numbers = np.arange(1, count + 1).astype(dtype)
        lanes = np.full(16, np.nan, np.float32)
        out = np.full(20, -9, dtype)
        run_team(library(isa), f"ragged_{kind}", (numbers, lanes, out[2:]), sizes=(count, 1, 1, 1))
        assert lanes.tolist() == [*range(1, count + 1), *(0,) * (16 - count)]
        assert out.tolist() == [-9, -9, *range(1, count + 1), *(-9,) * (18 - count)]


@pytest.mark.parametrize("isa", ISAS)
def test_arithmetic_is_numpys(isa: str) -> None:
    rows = 40
    generator = np.random.default_rng(3)
    x, y = generator.standard_normal((2, rows, 16)).astype(np.float32) * 100
    special = np.array([np.nan, np.inf, -np.inf, 0], np.float32)
    x[:4] = np.repeat(special, 16).reshape(4, 16)
    y[:4] = np.tile(np.repeat(special, 4), 4).reshape(4, 16)
    x[4, 5] = y[5, 6] = np.nan
    out = [np.full((rows, 16), 7, np.float32) for _ in range(7)]
    sums, most = np.full((2, rows), 7, np.float32)
    run_team(library(isa), "arithmetic", (x, y, *out, sums, most), sizes=(rows, 1, 1, 1))
    with np.errstate(invalid="ignore"):
        for greater, smaller in ((out[0], out[1]), (out[5], out[6])):
            np.testing.assert_array_equal(greater, np.maximum(x, y))
            np.testing.assert_array_equal(smaller, np.minimum(x, y))
        np.testing.assert_allclose(out[2], x * y + x, rtol=1e-5, atol=1e-2)
        np.testing.assert_array_equal(out[3], np.where(x < y, x, y))
        np.testing.assert_allclose(sums[6:], x[6:].sum(axis=1), rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(out[4][6:], np.trunc(x[6:]))
    np.testing.assert_array_equal(most[6:], x[6:].max(axis=1))
