from __future__ import annotations

from graphopt.codegen.cpp.quant_sizes import FEW_ROWS, quant_scratch, quant_workspace
from graphopt.quantization import GROUPS, quant_of

from .test_gemm_quant_h import library


def test_both_sides_ask_for_the_same() -> None:
    functions = library("portable")
    for bits in GROUPS:
        quant = quant_of(bits)
        for k in (1, 31, 32, 64, 65, 96, 130, 896, 4864, 28672):
            assert getattr(functions, f"scratch_{bits}")(k) == quant_scratch(k, quant)
            for rows in (1, FEW_ROWS, FEW_ROWS + 1, 100, 512):
                mine = quant_workspace(rows, k, quant)
                needed = getattr(functions, f"workspace_{bits}")(rows, k)
                assert needed == (mine if rows > FEW_ROWS else 0)
