"""Random numbers in C++ are those of runtime/philox.py."""

import ctypes

import numpy as np

from graphopt.runtime.philox import uniform
from tests.codegen.cpp.native import compile_source

SOURCE = """
#include "philox.h"
extern "C" __attribute__((visibility("default"))) void uniforms(
    const uint64_t* words, double* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    out[i] = gopt::uniform(words[3 * i], words[3 * i + 1], words[3 * i + 2]);
}
"""


def test_numbers_are_equal_bit_for_bit():
    count = 5000
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, (count, 3), dtype=np.uint64)
    words >>= rng.integers(0, 64, (count, 3), dtype=np.uint64)
    words[:, 1] &= np.uint64(0xFFFFFFFE)  # streams
    words[0], words[1] = 0, (2**64 - 1, 2**32 - 2, 2**64 - 1)
    out = np.full(count, np.nan)
    library = compile_source(SOURCE, "portable")
    library.uniforms(
        ctypes.c_void_p(words.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_int64(count)
    )
    assert np.array_equal(out, uniform(words[:, 0], words[:, 1], words[:, 2]))
