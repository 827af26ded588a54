"""Views that strides can say and views that they cannot, and what is put together from parts."""

from __future__ import annotations

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict

from ..cpp.row_cases import EVERY_ISA, check_all, make_case
from .cases import chain, whole
from .shape_graphs import assembled, several_results, split, views

T = sym("T")


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_operators(isa: str) -> None:
    check_all([*views(), split(), *assembled(), *several_results()], isa)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("roll", {"shifts": (1,), "dims": (0,)}),
        ("flip", {"dims": (0,)}),
        ("concat", {"dim": 0}),
        ("slice", {"dim": 0, "start": 1, "end": T}),
        ("pad_constant", {"pads": (0, 0, 1, 0), "value": 0.0}),
    ],
)
def test_rows_do_not_mix(op: str, attrs: dict[str, Attr]) -> None:
    """What a thread computes of one row is not at hand where another row is computed."""

    def make(b, x):  # type: ignore[no-untyped-def]
        y = b.one("softmax", x, {"dim": 1})
        return [b.one("exp", [b.one(op, [y, y] if op == "concat" else [y], attrs)])]

    graph = chain([TensorType(DType.F32, (T, 8))], make)
    case = make_case(graph, whole(graph))
    assert isinstance(case, Verdict)
    assert "row" in case.reason
