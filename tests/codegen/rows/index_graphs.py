"""Graphs of reads at an index: embeddings, rows, elements."""

from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from .cases import chain, operation

T, R = sym("T"), sym("R")
F32, BF16, F16, I64, BOOL = DType.F32, DType.BF16, DType.F16, DType.I64, DType.BOOL


def reads() -> list[Graph]:
    """Embeddings, chosen rows and chosen elements."""
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


def quantized(bits: int, columns: int, group: int) -> Graph:
    """Rows of a table of integers."""
    integers = TensorType(DType.I8, (29, columns))
    scales = TensorType(DType.F16, (29, -(-columns // group)))
    attrs: dict[str, Attr] = {"bits": bits, "group": group, "dtype": BF16, "scale": 2.0}
    return operation("quantized_embed", [TensorType(I64, (T,)), integers, scales], **attrs)
