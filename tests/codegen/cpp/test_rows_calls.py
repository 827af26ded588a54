"""What functions of the headers do for a row: routers, writes; and who may ask for them."""

from __future__ import annotations

import pytest

from graphopt.codegen.cpp.rows_calls import TABLE
from graphopt.codegen.rows import index
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from ..rows.cases import operation, whole
from ..rows.layers_graphs import routers, writes
from .row_cases import EVERY_ISA, RowCase, check_all, make_case

T = sym("T")


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_router(isa: str) -> None:
    check_all(routers(), isa)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_writes(isa: str) -> None:
    check_all(writes(), isa)


def test_a_sort_is_one_call_on_a_row() -> None:
    graph = operation("topk", [TensorType(DType.F32, (T, 50))], k=3, dim=1)
    case = make_case(graph, whole(graph))
    assert isinstance(case, RowCase), case
    assert case.kernel.text.count("top_k(") == 1


def test_other_lowerings_do_not_call_the_headers() -> None:
    graph = operation("cumsum", [TensorType(DType.F32, (T, 50))], dim=1)
    with pytest.raises(TypeError, match="C\\+\\+ headers"):
        TABLE["cumsum"](object(), graph.nodes[0])  # type: ignore[arg-type]
    assert TABLE["embed"] is not index.TABLE["embed"]
