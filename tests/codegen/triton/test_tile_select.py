"""What chooses along a dimension: ties, NaN, long lines; what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from graphopt.codegen.triton.interpreter import run
from graphopt.codegen.triton.rows import rows_kernel
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict

from ..rows.cases import chain, operation, whole
from .row_cases import check_all, made

T = sym("T")
F32, BF16, I64 = DType.F32, DType.BF16, DType.I64


@pytest.mark.interpreted
@pytest.mark.parametrize("largest", [True, False])
def test_equal_numbers_and_what_is_none(largest: bool) -> None:
    """The first of equal numbers comes first; NaN is above all; zeros are alike."""
    inf, nan = math.inf, math.nan
    line = torch.tensor([1.0, nan, 2.0, -0.0, 2.0, -inf, 0.0, inf, 1.0, -3.0, inf, nan])
    case = made(operation("sort", [TensorType(F32, (T, 12))], dim=1, descending=largest))
    values, places = torch.empty(1, 12), torch.empty(1, 12, dtype=torch.int64)
    run(case.kernel, case.kernel.variants[0], [line[None], values, places], {"T": 1})
    want = torch.sort(line, descending=largest, stable=True)
    assert torch.equal(places[0], want.indices)
    torch.testing.assert_close(values[0], want.values, equal_nan=True, rtol=0, atol=0)
    few = made(operation("topk", [TensorType(F32, (T, 12))], k=5, dim=1, largest=largest))
    values, places = torch.empty(1, 5), torch.empty(1, 5, dtype=torch.int64)
    run(few.kernel, few.kernel.variants[0], [line[None], values, places], {"T": 1})
    assert torch.equal(places[0], want.indices[:5])


@pytest.mark.interpreted
@pytest.mark.parametrize("op", ["amax", "amin"])
def test_a_reduction_passes_nan_on(op: str) -> None:
    lines = torch.randn(3, 37)
    lines[1, 5] = math.nan
    lines[2] = -math.inf
    case = made(operation(op, [TensorType(F32, (T, 37))], dims=(1,)))
    found = torch.zeros(3)
    for variant in case.kernel.variants:
        run(case.kernel, variant, [lines, found], {"T": 3})
        want = getattr(torch, op)(lines, dim=1)
        torch.testing.assert_close(found, want, equal_nan=True, rtol=0, atol=0)


@pytest.mark.interpreted
def test_many_of_a_line_and_long_lines() -> None:
    check_all(
        [
            operation("topk", [TensorType(F32, (T, 40))], k=20, dim=1),
            operation("topk", [TensorType(I64, (T, 7))], k=2, dim=1),
            operation("sort", [TensorType(F32, (T, 150))], dim=1),
            operation("cumsum", [TensorType(F32, (T, 150))], dim=1),
            operation("argmax", [TensorType(F32, (T, 40000))], dim=1),
            operation("argmax", [TensorType(BF16, (T, 3))], dim=1),
        ],
        (1, 3),
    )


@pytest.mark.interpreted
def test_what_is_chosen_is_computed_with() -> None:
    def make(b, x):  # type: ignore[no-untyped-def]
        values, places = b.node("topk", x, {"k": 3, "dim": 1})
        return [
            b.one("softmax", [values], {"dim": 1}),
            b.one("gather", [b.one("exp", x), places], {"dim": 1}),
        ]

    check_all([chain([TensorType(F32, (T, 19))], make)])


@pytest.mark.interpreted
def test_views_that_strides_cannot_say() -> None:
    def turned(b, x):  # type: ignore[no-untyped-def]
        flat = b.one("permute", [b.one("neg", x)], {"dims": (0, 2, 1)})
        rows = b.one("reshape", [flat], {"shape": (T, 12)})
        pairs = b.one("reshape", [flat], {"shape": (T, 2, 6)})
        return [b.one("rms_norm", [rows], {"eps": 1e-6}), b.one("exp", [pairs])]

    check_all([chain([TensorType(F32, (T, 4, 3))], turned)])


def test_refusals() -> None:
    for graph, reason in (
        (operation("sort", [TensorType(F32, (T, 5000))], dim=1), "numbers are put in order"),
        (operation("topk", [TensorType(F32, (T, 5))], k=2, dim=0), "goes over rows"),
        (operation("cumsum", [TensorType(F32, (T, 5))], dim=0), "goes over rows"),
    ):
        found = rows_kernel(graph, whole(graph))
        assert isinstance(found, Verdict), graph.nodes
        assert reason in found.reason
        assert found.culprits
