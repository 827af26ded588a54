"""Graphs of reductions, softmax, scans and sorts, over the last dimension and others."""

from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from .cases import chain, operation

T, R = sym("T"), sym("R")
F32, BF16, F16, I64, BOOL = DType.F32, DType.BF16, DType.F16, DType.I64, DType.BOOL


def reductions() -> list[Graph]:
    """Every reduction of every element type, over each dimension and all."""
    graphs = []
    for op in ("sum", "mean", "amax", "amin", "prod", "any"):
        for dtype in (F32, BF16, I64, BOOL):
            if op == "mean" and not dtype.is_float:
                continue
            x = TensorType(dtype, (T, 3, 19))
            graphs.append(operation(op, [x], dims=(2,), keepdim=True))
            graphs.append(operation(op, [x], dims=(1,)))
            graphs.append(operation(op, [x], dims=(1, 2)))
    x = TensorType(F32, (2, T, 35))
    graphs += [
        operation("var", [x], dims=(2,), correction=0),
        operation("var", [x], dims=(0, 2), keepdim=True),
        operation("sum", [TensorType(F32, (T, 3, 1))], dims=(2,)),
        operation("sum", [TensorType(F32, (T, 3, 0))], dims=(2,)),
        chain(
            [x],
            lambda b, v: [b.one("mul", [v[0], b.one("mean", v, {"dims": (2,), "keepdim": True})])],
        ),
        chain(
            [x],
            lambda b, v: [
                b.one(
                    "sum",
                    [b.one("exp", [b.one("permute", v, {"dims": (1, 2, 0)})])],
                    {"dims": (1,)},
                )
            ],
        ),
    ]
    return graphs


def lines() -> list[Graph]:
    """Softmax, scans, sorts and the greatest, over the last dimension and an inner one."""
    x, ids = TensorType(F32, (T, 4, 23)), TensorType(I64, (T, 23))
    graphs = []
    for dim in (1, 2):
        graphs += [
            operation("softmax", [x], dim=dim),
            operation("log_softmax", [x], dim=dim),
            operation("cumsum", [x], dim=dim),
            operation("argmax", [x], dim=dim),
            operation("topk", [x], k=3, dim=dim),
            operation("topk", [x], k=4, dim=dim, largest=False),
            operation("sort", [x], dim=dim),
            operation("sort", [x], dim=dim, descending=True),
        ]
    return [
        *graphs,
        operation("softmax", [TensorType(BF16, (T, 200))], dim=1),
        operation("cumsum", [ids], dim=1),
        operation("cumsum", [TensorType(BOOL, (T, 23))], dim=1),
        operation("sort", [ids], dim=1),
        operation("argmax", [x], dim=2, keepdim=True),
        chain([x], lambda b, v: [b.one("cumsum", [b.one("softmax", v, {"dim": 2})], {"dim": 2})]),
    ]
