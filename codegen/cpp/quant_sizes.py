"""How much memory the kernels of quantized weights ask for, as the headers do.

gemm_quant.h has linear maps, experts_quant.h layers of experts.

The same for every instruction set, so that one plan serves all.
"""

from __future__ import annotations

from graphopt.ir.shape import Dim
from graphopt.packing import Quant

from .sizes import row_stride

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


def quant_experts_workspace(
    tokens: Dim, chosen: int, experts: int, hidden: int, narrow: int, quant: Quant
) -> Dim:
    """Bytes that all threads of a layer of experts share.

    Rounded rows of one layer, what the second reads, sums, and where tokens go.
    """
    pairs = tokens * chosen
    rounded = max(rounded_bytes(size, quant) for size in (hidden, narrow))
    rows = pairs * (rounded + 4 * quant.groups(narrow) * quant.group)
    return rows + 4 * (tokens * row_stride(hidden) + row_stride(experts) + pairs)


def quant_experts_scratch(hidden: int, quant: Quant) -> int:
    """Bytes that each thread of a layer of experts has for itself: a row of x as floats."""
    return 4 * quant.groups(hidden) * quant.group


def _lines(size: int) -> int:
    return -(-size // LINE) * LINE
