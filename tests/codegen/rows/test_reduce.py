"""Reductions, softmax, scans and sorts: over the last dimension, inner ones and several."""

from __future__ import annotations

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict

from ..cpp.row_cases import EVERY_ISA, check_all, make_case
from .cases import operation, whole
from .reduce_graphs import lines, reductions

T = sym("T")


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_reductions(isa: str) -> None:
    check_all(reductions(), isa)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_lines(isa: str) -> None:
    check_all(lines(), isa)


@pytest.mark.parametrize("op", ["sum", "amax", "cumsum", "softmax", "sort", "argmax"])
def test_rows_are_not_reduced(op: str) -> None:
    attrs = {"dims": (0,)} if op in ("sum", "amax") else {"dim": 0}
    graph = operation(op, [TensorType(DType.F32, (T, 8))], **attrs)
    case = make_case(graph, whole(graph))
    assert isinstance(case, Verdict)
    assert case.reason
