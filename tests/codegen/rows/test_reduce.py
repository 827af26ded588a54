"""Reductions, softmax, scans and sorts: over the last dimension, inner ones and several."""

from __future__ import annotations

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict

from ..cpp.row_cases import EVERY_ISA, chain, check_all, make_case, operation, whole

T = sym("T")
F32, BF16, I64, BOOL = DType.F32, DType.BF16, DType.I64, DType.BOOL


def _reductions() -> list[Graph]:
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


def _lines() -> list[Graph]:
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


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_reductions(isa: str) -> None:
    check_all(_reductions(), isa)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_lines(isa: str) -> None:
    check_all(_lines(), isa)


@pytest.mark.parametrize("op", ["sum", "amax", "cumsum", "softmax", "sort", "argmax"])
def test_rows_are_not_reduced(op: str) -> None:
    attrs = {"dims": (0,)} if op in ("sum", "amax") else {"dim": 0}
    graph = operation(op, [TensorType(F32, (T, 8))], **attrs)  # type: ignore[arg-type]
    case = make_case(graph, whole(graph))
    assert isinstance(case, Verdict)
    assert case.reason
