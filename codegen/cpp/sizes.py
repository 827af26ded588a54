"""How much memory the kernels of linear maps ask for, as gemm.h does.

The same for every instruction set, so that one plan serves all: rows of x count with four bytes an
element, even where a kernel makes them of bf16.
"""

from __future__ import annotations

from graphopt.ir.shape import Dim

FEW_ROWS = 16
BLOCK_ROWS = 128
BLOCK_SCRATCH = 4 * 64 * (128 + 1024)


def row_stride(k: int) -> int:
    """Elements between two rows of x with ``k`` columns."""
    return -(-k // 32) * 32 + 32


def linear_workspace(rows: Dim, k: int) -> Dim:
    """Bytes that all threads of a linear map share: rows of x, when there are many."""
    return rows * (4 * row_stride(k))


def linear_scratch(k: int) -> int:
    """Bytes that each thread of a linear map has for itself: few rows of x, and sums of a block."""
    return 4 * (FEW_ROWS + 1) * row_stride(k) + BLOCK_SCRATCH
