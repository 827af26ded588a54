"""Reads at an index: embeddings from plain and packed tables, rows, elements."""

from __future__ import annotations

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.packing import Layout, Quant

from ..cpp.row_cases import EVERY_ISA, RowCase, chain, check, check_all, make_case, operation, whole

T, R = sym("T"), sym("R")
F32, BF16, I64 = DType.F32, DType.BF16, DType.I64


def _graphs() -> list[Graph]:
    ids, table = TensorType(I64, (T,)), TensorType(BF16, (29, 37))
    rows = TensorType(DType.I32, (R,))
    return [
        operation("embed", [ids, table]),
        operation("embed", [TensorType(I64, (T, 3)), table], scale=2.5),
        chain([ids, table], lambda b, v: [b.one("tanh", [b.one("embed", v)])]),
        operation("index_select", [TensorType(F32, (T, 40)), rows], dim=0),
        operation("index_select", [TensorType(F32, (3, T, 40)), rows], dim=1),
        operation("index_select", [TensorType(F32, (T, 9, 5)), TensorType(I64, (4,))], dim=1),
        operation("index_select", [TensorType(F32, (T, 9)), TensorType(I64, (4,))], dim=1),
        operation("gather", [TensorType(F32, (T, 9)), TensorType(I64, (T, 4))], dim=1),
        operation("gather", [TensorType(BF16, (T, 9, 6)), TensorType(I64, (T, 4, 6))], dim=1),
        operation("gather", [TensorType(F32, (50, 6)), TensorType(I64, (T, 6))], dim=0),
        chain(
            [TensorType(F32, (T, 9)), TensorType(I64, (T, 4))],
            lambda b, v: [b.one("gather", [b.one("exp", [v[0]]), v[1]], {"dim": 1})],
        ),
        chain(
            [TensorType(BF16, (T, 33)), rows],
            lambda b, v: [b.one("rms_norm", [b.one("index_select", v, {"dim": 0})], {"eps": 1e-6})],
        ),
    ]


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_operators(isa: str) -> None:
    check_all(_graphs(), isa)


def _quantized(bits: int, columns: int, group: int) -> Graph:
    integers = TensorType(DType.I8, (29, columns))
    scales = TensorType(DType.F16, (29, -(-columns // group)))
    attrs = {"bits": bits, "group": group, "dtype": BF16, "scale": 2.0}
    return operation("quantized_embed", [TensorType(I64, (T,)), integers, scales], **attrs)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_quantized_table(isa: str) -> None:
    """From rows as they are, and from panels."""
    check_all([_quantized(8, 64, 32)], isa)
    for bits, columns, group in ((8, 70, 64), (4, 96, 32)):
        graph = _quantized(bits, columns, group)
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
