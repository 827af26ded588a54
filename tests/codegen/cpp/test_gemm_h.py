"""Linear maps over packed weights agree with float64, whatever the shape, type and threads."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.packing import Layout, pack

from .native import ISAS, aligned, compile_source, run_team

TYPES = {"float": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
PARTS = (1, 2, 3)
BLOCK_ROWS = 128  # as in gemm_block.h

# y[r, part, j] of rows T, columns R of each part, and S numbers of a row of x. GIVEN is what the
# prologue makes rows of. Every element counts how often it is stored; a chunk that does not begin
# at a multiple of sixteen counts as many.
KERNEL = """
static void linear_{w}_{n}_{given}(const Step& step, Team& team, void* const* a) {{
  const int64_t n = step.R, k = step.S;
  const float* x = static_cast<const float*>(a[0]);
  const {w}* packed = static_cast<const {w}*>(a[1]);
  float* y = static_cast<float*>(a[2]);
  uint8_t* times = static_cast<uint8_t*>(a[3]);
  Panels<{w}> parts[{n}];
  for (int i = 0; i < {n}; ++i) {{
    parts[i] = {{packed, n, k}};
    packed += parts[i].count() * PANEL * padded<{w}>(k);
  }}
  const auto fill = [&](int64_t row, {given}* out) {{
    for (int64_t i = 0; i < k; ++i) out[i] = from_float<{given}>(x[row * k + i]);
  }};
  const auto store = [&](int64_t row, int64_t column, int count, const float* const* acc) {{
    for (int part = 0; part < {n}; ++part)
      for (int i = 0; i < count; ++i) {{
        const int64_t at = (row * {n} + part) * n + column + i;
        y[at] = acc[part][i];
        times[at] += column % 16 ? 100 : 1;
      }}
  }};
  linear(step, team, step.T, parts, fill, store, a[4]);
}}
"""
SIZES = """
extern "C" __attribute__((visibility("default"))) int64_t workspace(int64_t rows, int64_t k) {
  return linear_workspace(rows, k);
}
extern "C" __attribute__((visibility("default"))) int64_t scratch(int64_t k) {
  return linear_scratch(k);
}
"""


@dataclass(frozen=True, slots=True)
class Case:
    rows: int
    columns: int
    k: int
    weight: str
    given: str
    parts: int
    threads: int


@cache
def library(isa: str) -> ctypes.CDLL:
    text = '#include "gemm.h"\nusing namespace gopt;\n' + SIZES
    names = []
    for weight in TYPES:
        for parts in PARTS:
            for given_type in ("float", "bf16"):
                names.append(f"linear_{weight}_{parts}_{given_type}")
                text += KERNEL.format(w=weight, n=parts, given=given_type)
    found = compile_source(text, isa, kernels=tuple(names), flags=("-O1",))
    for function, count in ((found.workspace, 2), (found.scratch, 1)):
        function.restype = ctypes.c_int64
        function.argtypes = [ctypes.c_int64] * count
    return found


def stored(weight: npt.NDArray[np.generic], parts: int) -> npt.NDArray[np.generic]:
    rows, columns = weight.shape
    each = rows // parts
    selections = tuple((i * each, (i + 1) * each, 1) for i in range(parts))
    bits = weight.view(np.uint16) if weight.dtype == ml_dtypes.bfloat16 else weight
    return pack(bits, Layout(rows, columns, selections))


def check(isa: str, case: Case, seed: int = 0) -> None:
    code = library(isa)
    generator = np.random.default_rng(seed)
    kind = TYPES[case.weight]
    x = generator.standard_normal((case.rows, case.k), dtype=np.float32)
    x = x.astype(TYPES[case.given]).astype(np.float32)
    shape = (case.parts * case.columns, case.k)
    weight = generator.standard_normal(shape, dtype=np.float32).astype(kind)
    y = np.full((case.rows, case.parts, case.columns), np.nan, np.float32)
    times = np.zeros(y.shape, np.uint8)
    workspace = aligned(max(64, code.workspace(case.rows, case.k)))
    run_team(
        code,
        f"linear_{case.weight}_{case.parts}_{case.given}",
        (x, stored(weight, case.parts), y, times, workspace),
        sizes=(case.rows, case.columns, case.k, 0),
        threads=case.threads,
        scratch_bytes=code.scratch(case.k),
    )
    assert np.all(times == 1), np.unique(times)
    rounds = case.weight == "bf16" and isa == "avx512"
    left = x.astype(ml_dtypes.bfloat16) if rounds else x
    sizes = np.abs(left).astype(np.float64) @ np.abs(weight).astype(np.float64).T
    exact = left.astype(np.float64) @ weight.astype(np.float64).T
    error = np.abs(y.reshape(exact.shape) - exact)
    assert np.all(error <= 1e-6 * sizes + 1e-30), (error.max(), (error / sizes).max())


cases = st.builds(
    Case,
    rows=st.one_of(st.integers(0, 20), st.integers(17, 150), st.just(2 * BLOCK_ROWS + 3)),
    columns=st.one_of(st.integers(1, 40), st.integers(1, 200)),
    k=st.one_of(st.integers(1, 7), st.integers(1, 300)),
    weight=st.sampled_from(tuple(TYPES)),
    given=st.sampled_from(("float", "bf16")),
    parts=st.sampled_from(PARTS),
    threads=st.integers(1, 3),
)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(case=cases, seed=st.integers(0, 2**32 - 1))
def test_ragged_products_agree_with_float64(isa: str, case: Case, seed: int) -> None:
    check(isa, case, seed)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weight", tuple(TYPES))
def test_every_number_of_few_rows(isa: str, weight: str) -> None:
    for rows in range(1, 18):
        check(isa, Case(rows, 83, 65, weight, "float", 1 + rows % 3, 2))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weight", tuple(TYPES))
def test_columns_of_x_come_in_several_blocks(isa: str, weight: str) -> None:
    for rows in (1, 9, 40, 130):
        check(isa, Case(rows, 40, 5003, weight, "bf16", 2, 2))


@pytest.mark.parametrize("isa", ISAS)
def test_more_threads_than_panels(isa: str) -> None:
    for rows in (1, 17, 33):
        check(isa, Case(rows, 5, 30, "bf16", "float", 1, 5))
