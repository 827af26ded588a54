"""What makes a match a norm of rows, apart from the arithmetic."""

from __future__ import annotations

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.passes.match import Match, Var, match, op
from graphopt.passes.norm_pattern import mean, normalizes_rows, over_root, square
from graphopt.passes.spelling import narrow, wide

T = sym("T")
PATTERN = op.mul(narrow(over_root(wide(Var("x")), mean(square(wide(Var("x")))))), Var("weight"))


def verdict(
    *,
    shape: tuple[Dim, ...] = (T, 7),
    weight: tuple[Dim, ...] = (7,),
    dims: tuple[int, ...] = (1,),
    middle: DType = DType.F32,
    reused: str = "",
    count: float | None = None,
) -> Verdict:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, shape))
    wide_x = b.one("cast", [x], {"dtype": middle})
    squared = b.one("pow", [wide_x], {"scalar": 2.0})
    moment = b.one("sum" if count else "mean", [squared], {"dims": dims, "keepdim": True})
    if count:
        moment = b.one("div", [moment], {"scalar": count})
    inverse = b.one("rsqrt", [moment])
    normed = b.one("mul", [wide_x, inverse])
    back = b.one("cast", [normed], {"dtype": DType.BF16})
    y = b.one("mul", [back, b.weight("w", TensorType(DType.BF16, weight))])
    values = {"wide": wide_x, "inverse": inverse, "normed": normed, "back": back}
    graph = b.finish([y, values[reused]] if reused else [y])
    (root,) = (node for node in graph.nodes if node.output is y)
    found = match(PATTERN, graph, root)
    assert isinstance(found, Match)
    return normalizes_rows(found, ["weight"])


@pytest.mark.parametrize("shape", [(T, 7), (1, 7), (T, 1)])
def test_rows_are_normalized(shape: tuple[Dim, ...]) -> None:
    assert verdict(shape=shape, weight=shape[-1:]).accepted


@pytest.mark.parametrize("reused", ["wide", "inverse"])
def test_casts_and_small_values_may_be_read_elsewhere(reused: str) -> None:
    assert verdict(reused=reused).accepted


@pytest.mark.parametrize("reused", ["normed", "back"])
def test_a_normalized_value_may_not(reused: str) -> None:
    refused = verdict(reused=reused)
    assert refused.reason == "the normalized value is read elsewhere too"
    assert len(refused.culprits) == 1


def test_a_norm_computed_in_half_precision_between_casts() -> None:
    refused = verdict(middle=DType.F16)
    assert "computed in f16" in refused.reason


def test_a_sum_over_its_count_is_a_mean() -> None:
    assert verdict(count=7.0).accepted
    assert "over 7 elements is divided by 6.0" in verdict(count=6.0).reason


def test_columns_and_wrong_weights() -> None:
    assert "over dimensions (0,)" in verdict(shape=(7, 7), dims=(0,)).reason
    assert "weight is bf16[1, 7]" in verdict(weight=(1, 7)).reason
    assert "weight is bf16[1]" in verdict(weight=(1,)).reason
