"""Sizes in Python are the headers' own."""

from __future__ import annotations

import ctypes

import pytest

from graphopt.codegen.cpp.sizes import (
    BLOCK_ROWS,
    BLOCK_SCRATCH,
    FEW_ROWS,
    linear_scratch,
    linear_workspace,
    row_stride,
)
from graphopt.ir.shape import Expr, evaluate, sym

from .native import ISAS, compile_source

SOURCE = """
#include "gemm.h"
#define EXPORT extern "C" __attribute__((visibility("default"))) int64_t
EXPORT few_rows() { return gopt::FEW_ROWS; }
EXPORT block_rows() { return gopt::BLOCK_ROWS; }
EXPORT block_scratch() { return gopt::BLOCK_SCRATCH; }
EXPORT stride(int64_t k) { return gopt::row_stride(k); }
EXPORT workspace(int64_t rows, int64_t k) { return gopt::linear_workspace(rows, k); }
EXPORT scratch(int64_t k) { return gopt::linear_scratch(k); }
"""


@pytest.mark.parametrize("isa", ISAS)
def test_sizes_are_those_of_the_headers(isa: str) -> None:
    library = compile_source(SOURCE, isa, flags=("-O0",))

    def call(name: str, *values: int) -> int:
        function = getattr(library, name)
        function.restype = ctypes.c_int64
        return int(function(*map(ctypes.c_int64, values)))

    assert call("few_rows") == FEW_ROWS
    assert call("block_rows") == BLOCK_ROWS
    assert call("block_scratch") == BLOCK_SCRATCH
    for k in (1, 2, 31, 32, 33, 896, 4864, 8191):
        assert call("stride", k) == row_stride(k)
        assert call("scratch", k) == linear_scratch(k)
        for rows in (0, 1, 17, 513):
            assert call("workspace", rows, k) == linear_workspace(rows, k)


def test_a_workspace_grows_with_the_rows() -> None:
    size = linear_workspace(sym("T"), 896)
    assert isinstance(size, Expr)
    assert evaluate(size, {"T": 7}) == linear_workspace(7, 896)
