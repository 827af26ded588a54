"""Tiles: rows longer than one, several short rows, results of several shapes, none with rows."""

from __future__ import annotations

import pytest

from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.rows import rows_kernel
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import evaluate, sym
from graphopt.ir.types import TensorType

from ..rows.cases import chain, operation, whole
from .row_cases import check_all

T = sym("T")
F32, BF16 = DType.F32, DType.BF16


def _kernel(graph: Graph) -> TritonKernel:
    found = rows_kernel(graph, whole(graph))
    assert isinstance(found, TritonKernel), found
    return found


def _long_rows() -> list[Graph]:
    """Rows of more elements than a tile holds, and no multiple of it."""
    x, w = TensorType(F32, (T, 40001)), TensorType(F32, (40001,))

    def normed(b, v):  # type: ignore[no-untyped-def]
        total = b.one("add", [v[0], v[0]])
        return [total, b.one("rms_norm", [total, v[1]], {"eps": 1e-6})]

    return [
        operation("softmax", [x], dim=1),
        operation("log_softmax", [TensorType(F32, (T, 32768))], dim=1),
        operation("layer_norm", [x, w, w], eps=1e-5),
        operation("sum", [x], dims=(1,)),
        operation("amin", [TensorType(F32, (T, 3, 20000))], dims=(2,)),
        operation("mean", [TensorType(F32, (T, 3, 20000))], dims=(1, 2)),
        chain([x, w], normed),
    ]


def _without_rows() -> list[Graph]:
    x, w = TensorType(F32, (5, 70)), TensorType(F32, (70,))
    return [
        operation("add", [x, w]),
        operation("softmax", [x], dim=1),
        operation("exp", [TensorType(F32, (301, 300))]),
        operation("iota", [], start=0, end=77, step=1),
    ]


@pytest.mark.interpreted
def test_long_rows() -> None:
    check_all(_long_rows(), (1, 3))


@pytest.mark.interpreted
def test_without_rows() -> None:
    check_all(_without_rows(), (1,))


def test_few_rows_are_many_programs() -> None:
    """Blocks of a row lie side by side; with many rows a program takes more of them."""
    few, many = _kernel(operation("exp", [TensorType(BF16, (T, 4096))])).variants
    assert few.below == {"T": 64}
    assert few.programs({"T": 3}) == (3, 4, 1)
    assert many.programs({"T": 100}) == (100, 1, 1)
    short = _kernel(operation("exp", [TensorType(BF16, (T, 32))])).variants[-1]
    assert short.constants["ROWS"] == 32
    assert evaluate(short.grid[0], {"T": 65}) == 3


def test_results_of_several_shapes_are_several_programs() -> None:
    """With few rows; with many, one program computes all."""

    def make(b, x):  # type: ignore[no-untyped-def]
        return [b.one("exp", x[:1]), b.one("exp", x[1:])]

    graph = chain([TensorType(BF16, (T, 4096)), TensorType(BF16, (T, 1000))], make)
    few, many = _kernel(graph).variants
    assert few.programs({"T": 1}) == (1, 5, 1)
    assert [few.constants[f"FIRST{part}"] for part in (0, 1)] == [0, 4]
    assert many.programs({"T": 100}) == (100, 1, 1)
    assert [many.constants[f"FIRST{part}"] for part in (0, 1)] == [0, 0]


def test_rows_that_are_reduced_are_one_programs() -> None:
    for variant in _kernel(operation("softmax", [TensorType(F32, (T, 128256))], dim=1)).variants:
        assert variant.programs({"T": 7}) == (7, 1, 1)


def test_a_table_of_angles_is_not_loaded_element_by_element() -> None:
    """Threads are not as many as a row of the table has elements."""
    heads, table = TensorType(BF16, (T, 8, 256)), TensorType(BF16, (T, 128))
    for variant in _kernel(operation("rope", [heads, table, table])).variants:
        assert variant.num_warps * 32 != variant.constants["ROWS"] * 128
