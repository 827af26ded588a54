"""Loops: as few as can be, on vectors where they can be, invariant work before them."""

from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from ..rows.cases import chain, operation, whole
from .row_cases import RowCase, make_case

T = sym("T")


def _text(graph: Graph) -> str:
    case = make_case(graph, whole(graph))
    assert isinstance(case, RowCase), case
    return case.kernel.text


def test_dimensions_become_one_loop() -> None:
    x = TensorType(DType.F32, (T, 4, 3, 5))
    text = _text(operation("exp", [x]))
    assert "columns(60, [&](int64_t i, auto n) {" in text
    assert "for (" in text.split("team.share")[1]
    assert text.count("for (") == 1  # over rows


def test_reductions() -> None:
    x = TensorType(DType.F32, (T, 64))
    text = _text(chain([x], lambda b, v: [b.one("sum", v, {"dims": (1,)})]))
    assert "const float sum2 = sum_columns(64, [&](int64_t i, auto n) {" in text
    assert text.rstrip().endswith("sum1[t] = sum2;\n  }\n}")
