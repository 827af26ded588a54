"""Linear maps by quantized weights against the language's own, on every instruction set."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graphopt.ir.reference_quant import dequantized, round_rows
from graphopt.packing import Layout
from graphopt.quantization import GROUPS, pack_quantized, quant_of

from .native import ISAS, aligned, compile_source, run_team

Floats = npt.NDArray[np.float32]

# y[r, part, j]; every element counts how often it is stored. Rows T, columns R of each part, and S
# numbers of a row of x.
KERNELS = """
template <int BITS, int GROUP, int PARTS>
static void product(const Step& step, Team& team, void* const* a) {
  using Q = Quantized<BITS, GROUP>;
  const int64_t n = step.R, k = step.S;
  const float* x = static_cast<const float*>(a[0]);
  float* y = static_cast<float*>(a[2]);
  uint8_t* times = static_cast<uint8_t*>(a[3]);
  Panels<Q> parts[PARTS];
  parts[0] = {static_cast<const Q*>(a[1]), n, k};
  for (int p = 1; p < PARTS; ++p)
    parts[p] = {reinterpret_cast<const Q*>(parts[p - 1].panel(parts[p - 1].count())), n, k};
  const auto fill = [&](int64_t row, float* out) { std::memcpy(out, x + row * k, k * 4); };
  const auto store = [&](int64_t row, int64_t first, int count, const float* const* acc) {
    for (int p = 0; p < PARTS; ++p)
      for (int i = 0; i < count; ++i) {
        y[(row * PARTS + p) * n + first + i] = acc[p][i];
        ++times[(row * PARTS + p) * n + first + i];
      }
  };
  linear(step, team, step.T, parts, fill, store, a[4]);
}
template <int BITS, int GROUP>
static void rows(const Step& step, Team& team, void* const* a) {
  const auto* w = static_cast<const Quantized<BITS, GROUP>*>(a[0]);
  int64_t first, last;
  team.share(step.R, 1, first, last);
  for (int64_t n = first; n < last; ++n)
    row_of(w, n, step.S, static_cast<float*>(a[1]) + n * step.S);
}
"""
NAMED = """
static void product_{bits}_1(const Step& s, Team& t, void* const* a) {{
  product<{bits}, {group}, 1>(s, t, a);
}}
static void product_{bits}_2(const Step& s, Team& t, void* const* a) {{
  product<{bits}, {group}, 2>(s, t, a);
}}
static void rows_{bits}(const Step& s, Team& t, void* const* a) {{
  rows<{bits}, {group}>(s, t, a);
}}
extern "C" __attribute__((visibility("default"))) int64_t scratch_{bits}(int64_t k) {{
  return quant_scratch<Quantized<{bits}, {group}>>(k);
}}
extern "C" __attribute__((visibility("default"))) int64_t workspace_{bits}(int64_t r, int64_t k) {{
  return quant_workspace<Quantized<{bits}, {group}>>(r, k);
}}
"""
NAMES = tuple(
    name.format(bits) for bits in GROUPS for name in ("product_{}_1", "product_{}_2", "rows_{}")
)


def library(isa: str) -> ctypes.CDLL:
    source = '#include "gemm_quant.h"\nusing namespace gopt;\n' + KERNELS
    source += "".join(NAMED.format(bits=bits, group=group) for bits, group in GROUPS.items())
    found = compile_source(source, isa, kernels=NAMES, flags=("-O1",))
    for bits in GROUPS:
        for name, count in (("scratch", 1), ("workspace", 2)):
            function = getattr(found, f"{name}_{bits}")
            function.restype = ctypes.c_int64
            function.argtypes = [ctypes.c_int64] * count
    return found


@dataclass(frozen=True)
class Weight:
    """A rounded matrix, and the same packed; columns of y in ``parts`` equal parts."""

    bits: int
    integers: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float16]
    parts: int = 1

    @property
    def packed(self) -> npt.NDArray[np.uint8]:
        rows, columns = self.integers.shape
        each = rows // self.parts
        parts = tuple((p * each, (p + 1) * each, 1) for p in range(self.parts))
        stored = pack_quantized(
            self.integers, self.scales, Layout(rows, columns, parts, quant=quant_of(self.bits))
        )
        found = aligned(stored.nbytes)
        found[:] = stored.reshape(-1)
        return found

    def product(self, x: Floats) -> npt.NDArray[np.float64]:
        """What the language says of rows that are rounded in float32, in float64."""
        group = GROUPS[self.bits]
        steps, sizes = (part.double() for part in round_rows(torch.from_numpy(x), group))
        rounded = (steps * sizes).flatten(-2)[:, : x.shape[1]]
        integers, scales = map(torch.from_numpy, (self.integers, self.scales))
        weight = dequantized(integers, scales, group, torch.float64)
        found: npt.NDArray[np.float64] = (rounded @ weight.T).numpy()
        return found


def random_weight(bits: int, rows: int, columns: int, seed: int = 0, parts: int = 1) -> Weight:
    chance = np.random.default_rng(seed)
    limit = 1 << (bits - 1)
    integers = chance.integers(-limit, limit, (rows, columns), dtype=np.int8)
    groups = -(-columns // GROUPS[bits])
    scales = chance.standard_normal((rows, groups)).astype(np.float16)
    return Weight(bits, integers, scales, parts)


def product(isa: str, x: Floats, w: Weight, threads: int = 1) -> Floats:
    """The kernel's result; every element was written exactly once."""
    rows, columns = x.shape
    lib = library(isa)
    y = np.full((rows, len(w.integers)), np.nan, np.float32)
    times = np.zeros(y.shape, np.uint8)
    workspace = aligned(max(64, getattr(lib, f"workspace_{w.bits}")(rows, columns)))
    run_team(
        lib,
        f"product_{w.bits}_{w.parts}",
        [x, w.packed, y, times, workspace],
        sizes=(rows, len(w.integers) // w.parts, columns, 1),
        threads=threads,
        scratch_bytes=getattr(lib, f"scratch_{w.bits}")(columns),
    )
    assert (times == 1).all()
    return y


def numbers(rows: int, columns: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(GROUPS))
@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 3, 5, 8, 12, 13, 16, 17, 29, 40]),
    n=st.sampled_from([1, 15, 16, 17, 70]),
    columns=st.sampled_from([1, 5, 32, 33, 64, 97, 200, 257]),
    parts=st.sampled_from([1, 2]),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 99),
)
# 39.499996 steps: 40 if 127 / greatest is taken through a rounded reciprocal.
@example(rows=29, n=1, columns=5, parts=1, threads=1, seed=14)
def test_ragged_shapes(
    isa: str, bits: int, rows: int, n: int, columns: int, parts: int, threads: int, seed: int
) -> None:
    x, w = numbers(rows, columns, seed), random_weight(bits, n * parts, columns, seed, parts)
    wanted = w.product(x)
    error = np.linalg.norm(product(isa, x, w, threads) - wanted)
    assert error <= 2e-6 * max(np.linalg.norm(wanted), 1e-30)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(GROUPS))
@pytest.mark.parametrize("rows", [1, 16, 19])
def test_integers_are_added_without_error(isa: str, bits: int, rows: int) -> None:
    """Rows whose greatest number is 127 keep their integers; with scales of 1 all is exact."""
    chance = np.random.default_rng(0)
    columns, group = 300, GROUPS[bits]
    x = chance.integers(-127, 128, (rows, columns)).astype(np.float32)
    x[:, ::group] = np.where(chance.random(x[:, ::group].shape) < 0.5, 127, -127)
    w = random_weight(bits, 40, columns)
    w.scales[:] = 1
    np.testing.assert_array_equal(product(isa, x, w), x @ w.integers.T.astype(np.float32))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(GROUPS))
@pytest.mark.parametrize("sign", [1, -1])
def test_the_greatest_products_do_not_overflow(isa: str, bits: int, sign: int) -> None:
    limit = 1 << (bits - 1)
    for value in (limit - 1, -limit):
        w = random_weight(bits, 33, 256)
        w.integers[:], w.scales[:] = value, 1
        for rows in (1, 20):
            y = product(isa, np.full((rows, 256), sign * 127, np.float32), w)
            assert (y == 256 * 127 * value * sign).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(GROUPS))
def test_zeros_outliers_and_the_ends_of_the_scales(isa: str, bits: int) -> None:
    w = random_weight(bits, 20, 256)
    w.integers[3] = 0
    w.scales[4] = 0
    w.scales[5] = 2.0**-24  # the smallest f16
    w.scales[6] = 65504
    x = numbers(5, 256)
    x[1] = 0
    x[2, 17] = 1e30
    x[3] *= 1e-28
    x[4, 64:128] *= 2.0**-110  # below what counts
    y, wanted = product(isa, x, w), w.product(x)
    largest = np.abs(wanted).max(1)[:, None]
    assert (np.abs(y - wanted) <= 1e-4 * np.abs(wanted) + 1e-6 * largest).all()
    assert not y[:, 3:5].any()
    assert not y[1].any()
    assert y[3].any()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(GROUPS))
@pytest.mark.parametrize("rows", [3, 18])
def test_what_is_not_finite_never_becomes_finite(isa: str, bits: int, rows: int) -> None:
    for odd in (math.nan, -math.nan, math.inf, -math.inf):
        for column in (0, 64, 99):
            x, w = numbers(rows, 100), random_weight(bits, 17, 100)
            x[1, column] = odd
            y = product(isa, x, w)
            assert np.isnan(y[1]).all()
            assert np.isfinite(np.delete(y, 1, 0)).all()
    x, w = numbers(rows, 100), random_weight(bits, 17, 100)
    w.scales[16, 1] = math.nan
    w.integers[16, GROUPS[bits] : 2 * GROUPS[bits]] = 0
    y = product(isa, x, w)
    assert np.isnan(y[:, 16]).all()
    assert np.isfinite(y[:, :16]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(GROUPS))
def test_rows_are_the_same_whoever_their_neighbours_are(isa: str, bits: int) -> None:
    x, w = numbers(61, 130), random_weight(bits, 100, 130)
    together = product(isa, x, w, 3)
    for first, last in ((0, 1), (1, 9), (9, 25), (25, 61)):
        part = product(isa, np.ascontiguousarray(x[first:last]), w, 2)
        np.testing.assert_array_equal(part, together[first:last])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(GROUPS))
def test_each_number_of_x_is_rounded_as_the_language_says(isa: str, bits: int) -> None:
    """A weight that is the identity shows every rounded number."""
    columns, group = 128, GROUPS[bits]
    integers = np.eye(columns, dtype=np.int8)
    scales = np.ones((columns, columns // group), np.float16)
    x = numbers(300, columns, 7)
    x[::2] = np.round(x[::2] * 40) / 2  # many halves between two steps
    x[::2, ::group] = 127
    steps, sizes = round_rows(torch.from_numpy(x), group)
    wanted = (steps * sizes).flatten(-2).numpy()
    np.testing.assert_array_equal(product(isa, x, Weight(bits, integers, scales)), wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", sorted(GROUPS))
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (50, 97), (35, 192)])
def test_rows_of_the_weight(isa: str, bits: int, rows: int, columns: int) -> None:
    w = random_weight(bits, rows, columns)
    out = np.full((rows, columns), np.nan, np.float32)
    run_team(library(isa), f"rows_{bits}", [w.packed, out], sizes=(1, rows, columns, 1), threads=2)
    each = np.repeat(w.scales.astype(np.float32), GROUPS[bits], axis=1)[:, :columns]
    np.testing.assert_array_equal(out, w.integers.astype(np.float32) * each)
