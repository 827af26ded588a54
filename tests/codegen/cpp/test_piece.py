"""A piece's function runs its kernels in order, each on its own pointers."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from graphopt.codegen.cpp.kernel import Kernel, named_kernel
from graphopt.codegen.cpp.piece import piece_source, scratch_bytes
from graphopt.plan import Piece, Step

from .native import ISAS, aligned, compile_source
from .native import Step as CStep

ADD = """static void KERNEL_NAME(const Step& step, Team& team, void* const* a) {
  const float* const x = (const float*)a[0];
  float* const y = (float*)a[1];
  int64_t first, last;
  team.share(step.T, 1, first, last);
  for (int64_t t = first; t < last; ++t) y[step.T - 1 - t] = x[t] + 1;
}"""
TWICE = ADD.replace("x[t] + 1", "x[t] * 2")


def kernels() -> tuple[Kernel, Kernel]:
    add = named_kernel("add", ADD, ("parallel.h",), scratch_bytes=100)
    twice = named_kernel("twice", TWICE, ("parallel.h",), scratch_bytes=30)
    return add, twice


def piece() -> Piece:
    """y = x + 1 reversed; z = 2 y reversed; x = z + 1 reversed."""
    add, twice = kernels()
    steps = (
        Step("cpp", add.name, (0,), (0,), (1,), scope="first"),
        Step("cpp", twice.name, (1,), (1,), (2,), scope="second"),
        Step("cpp", add.name, (2,), (2,), (0,), scope="third"),
    )
    return Piece("p0", steps, True, "", "b0dy")


def test_the_text_names_every_kernel_once() -> None:
    text = piece_source(piece())
    add, twice = kernels()
    assert text.count(f"void call_{add.name}(const Step&") == 1
    assert text.count(f"call_{add.name}, a + ") == 2
    assert f"run(1, call_{twice.name}, a + 2);  // second" in text
    assert "piece_b0dy(" in text


def test_scratch_is_what_the_hungriest_kernel_needs() -> None:
    by_name = {kernel.name: kernel for kernel in kernels()}
    assert scratch_bytes([piece()], by_name) == 128
    assert scratch_bytes([], by_name) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 17, 1000])
def test_it_computes_what_its_kernels_do(count: int, threads: int) -> None:
    text = "".join(kernel.source for kernel in kernels()) + piece_source(piece())
    library = compile_source(text, ISAS[0])
    x = np.arange(count, dtype=np.float32)
    y, z = (np.full(count, np.nan, dtype=np.float32) for _ in range(2))
    want_y = (x + 1)[::-1].copy()
    want_z = (2 * want_y)[::-1].copy()
    scratch = aligned(128 * threads)
    arrays = [x, y, y, z, z, x]
    pointers = (ctypes.c_void_p * 6)(*(array.ctypes.data for array in arrays))

    def run(first: int, last: int) -> None:
        step = CStep(count, 1, 1, 1, scratch.ctypes.data, 128, threads, first, last)
        library.piece_b0dy(ctypes.byref(step), pointers)

    run(0, 2)
    np.testing.assert_array_equal(y, want_y)
    np.testing.assert_array_equal(z, want_z)
    np.testing.assert_array_equal(x, np.arange(count))  # the third did not run
    run(2, 3)
    np.testing.assert_array_equal(x, (want_z + 1)[::-1])
    np.testing.assert_array_equal(y, want_y)
