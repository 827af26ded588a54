"""Cells of a grid of products: each one once, none too high, and threads in order."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .native import ISAS, aligned, compile_source, run_team

# Counts the threads that take each panel of each row of P matrices: T rows, R of them in a block at
# most, S panels. Products of whole numbers, which every order of addition gives exactly.
SOURCE = """
#include "batched.h"
using namespace gopt;
static void cells(const Step& step, Team& team, void* const* a) {
  uint8_t* times = (uint8_t*)a[0];
  share_cells(team, step.P, step.T, step.R, step.S, [&](const Cell& cell) {
    const bool high = cell.last_row - cell.first_row > step.R || cell.panels > CELL_PANELS;
    for (int64_t row = cell.first_row; row < cell.last_row; ++row)
      for (int64_t i = 0; i < cell.panels; ++i)
        times[(cell.batch * step.T + row) * step.S + cell.panel + i] += high ? 100 : 1;
  });
}
static void products(const Step& step, Team& team, void* const* a) {
  const int64_t rows = step.T, columns = step.R, depth = step.S;
  const auto left = [&](int64_t b) {
    return Strided<f16>{(const f16*)a[0] + b * rows * depth, depth, 1};
  };
  const auto right = [&](int64_t b) {
    return Strided<f16>{(const f16*)a[1] + b * columns * depth, 1, depth};
  };
  batched_product(team, step.P, rows, columns, depth, left, right, (float*)a[2]);
}
extern "C" __attribute__((visibility("default"))) int64_t scratch() {
  return PRODUCT_SCRATCH;
}
"""


@cache
def library(isa: str) -> ctypes.CDLL:
    found = compile_source(SOURCE, isa, kernels=("cells", "products"), flags=("-O1",))
    found.scratch.restype = ctypes.c_int64
    return found


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 5),
    rows=st.integers(0, 200),
    block=st.integers(16, 128),
    panels=st.integers(1, 11),
    threads=st.integers(1, 4),
)
def test_every_cell_is_taken_once(
    isa: str, batch: int, rows: int, block: int, panels: int, threads: int
) -> None:
    times = np.zeros(max(1, batch * rows * panels), np.uint8)
    run_team(library(isa), "cells", (times,), sizes=(rows, block, panels, batch), threads=threads)
    assert np.all(times[: batch * rows * panels] == 1)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    rows=st.integers(1, 100),
    columns=st.integers(1, 140),
    depth=st.one_of(st.integers(0, 40), st.integers(250, 530)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_of_whole_numbers_are_exact(
    isa: str, batch: int, rows: int, columns: int, depth: int, threads: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    left = generator.integers(-9, 9, (batch, rows, depth)).astype(np.float16)
    right = generator.integers(-9, 9, (batch, columns, depth)).astype(np.float16)
    y = aligned(4 * batch * rows * columns).view(np.float32)
    run_team(
        library(isa),
        "products",
        (left, right, y),
        sizes=(rows, columns, depth, batch),
        threads=threads,
        scratch_bytes=library(isa).scratch(),
    )
    wanted = left.astype(np.float32) @ right.astype(np.float32).swapaxes(1, 2)
    np.testing.assert_array_equal(y.reshape(wanted.shape), wanted)
