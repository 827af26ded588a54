"""How much memory the kernels of quantized linear maps ask for, as gemm_quant.h does.

The same for every instruction set, so that one plan serves all.
"""

from __future__ import annotations

from graphopt.ir.shape import Dim
from graphopt.packing import Quant

FEW_ROWS = 16
LINE = 64  # bytes


def rounded_bytes(k: int, quant: Quant) -> int:
    """Bytes of a rounded row of x: a byte a column, and a scale and a start a group."""
    return _lines(quant.groups(k) * (quant.group + 8))


def quant_workspace(rows: Dim, k: int, quant: Quant) -> Dim:
    """Bytes that all threads of a linear map share: rounded rows of x, when there are many."""
    return rows * rounded_bytes(k, quant)


def quant_scratch(k: int, quant: Quant) -> int:
    """Bytes that each thread of a linear map has for itself: few rounded rows, one as floats."""
    return FEW_ROWS * rounded_bytes(k, quant) + _lines(4 * quant.groups(k) * quant.group)


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE
