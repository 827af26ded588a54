"""Reads at an index: embeddings from plain and packed tables, rows, elements."""

from __future__ import annotations

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.packing import Layout, Quant

from ..cpp.row_cases import EVERY_ISA, RowCase, check, check_all, make_case
from .cases import operation, whole
from .index_graphs import quantized, reads

T = sym("T")
BF16, I64 = DType.BF16, DType.I64


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_operators(isa: str) -> None:
    check_all(reads(), isa)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_quantized_table(isa: str) -> None:
    """From rows as they are, and from panels."""
    check_all([quantized(8, 64, 32)], isa)
    # A last group that is narrower; one of a single column; no other.
    check_all([quantized(8, 72, 64), quantized(4, 97, 32), quantized(4, 5, 32)], isa)
    for bits, columns, group in ((8, 70, 64), (4, 96, 32)):
        graph = quantized(bits, columns, group)
        layouts = {"w1.weight": Layout.whole(29, columns, quant=Quant(bits, group))}
        case = make_case(graph, whole(graph), layouts)
        assert isinstance(case, RowCase)
        check([case], isa, tokens=5, threads=2, seed=0, layouts=layouts)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_packed_table(isa: str) -> None:
    """A table that a linear map reads too is embedded from its panels."""
    layouts = {"w1.weight": Layout.whole(29, 37)}
    graph = operation("embed", [TensorType(I64, (T,)), TensorType(BF16, (29, 37))], scale=3.0)
    case = make_case(graph, whole(graph), layouts)
    assert isinstance(case, RowCase)
    check([case], isa, tokens=11, threads=2, seed=0, layouts=layouts)
