"""Memory that a layer of experts in few bits asks for is what the header says.

Its numbers are compared with the interpreter's in ``test_experts``.
"""

from __future__ import annotations

import ctypes
from functools import cache

import pytest

from graphopt.codegen.cpp.quant_sizes import quant_experts_scratch, quant_experts_workspace
from graphopt.quantization import GROUPS, quant_of

from .native import ISAS, compile_source

NAMED = """
EXPORT workspace_{bits}(int64_t t, int64_t k, int64_t e, int64_t h, int64_t f) {{
  return quant_experts_workspace<Quantized<{bits}, {group}>>({{t, k, e, h, f}});
}}
EXPORT scratch_{bits}(int64_t hidden) {{
  return quant_experts_scratch<Quantized<{bits}, {group}>>(hidden);
}}
"""
SIZES = ((0, 1, 1, 1, 1), (7, 3, 40, 37, 130), (1, 8, 128, 2048, 768), (300, 2, 8, 65, 4097))


@cache
def library(isa: str) -> ctypes.CDLL:
    source = '#include "experts_quant.h"\nusing namespace gopt;\n'
    source += '#define EXPORT extern "C" __attribute__((visibility("default"))) int64_t\n'
    source += "".join(NAMED.format(bits=bits, group=group) for bits, group in GROUPS.items())
    return compile_source(source, isa, kernels=(), flags=("-O1",))


@pytest.mark.parametrize("isa", ISAS)
def test_both_sides_ask_for_the_same(isa: str) -> None:
    for bits in GROUPS:
        quant = quant_of(bits)
        workspace = getattr(library(isa), f"workspace_{bits}")
        scratch = getattr(library(isa), f"scratch_{bits}")
        workspace.restype = scratch.restype = ctypes.c_int64
        workspace.argtypes, scratch.argtypes = [ctypes.c_int64] * 5, [ctypes.c_int64]
        for sizes in SIZES:
            assert workspace(*sizes) == quant_experts_workspace(*sizes, quant)
            assert scratch(sizes[3]) == quant_experts_scratch(sizes[3], quant)
