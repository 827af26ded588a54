"""What stands around a product, as text: which prologues need no pass of their own."""

from __future__ import annotations

import pytest

from graphopt.codegen.rows.tree import RefusedError
from graphopt.codegen.triton.anchor import Anchored, Prologue
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.region import make_region
from tests.codegen.cpp.linear_cases import (
    Before,
    gate_beside_scores,
    gated,
    gathered,
    glu_of_turned_halves,
    layer_norm,
    linear_case,
    nothing,
    plain,
    residual,
    rms_norm,
    third_of_three,
    units_of_unequal_parts,
)

T = sym("T")


def prologue_of(before: Before, dtype: DType = DType.BF16) -> tuple[Anchored, Prologue]:
    anchored = Anchored(*linear_case(before, nothing, dtype))
    return anchored, anchored.prologue(is_even=False)


@pytest.mark.parametrize("before", [rms_norm, gathered])
def test_a_scale_of_rows_is_left_to_the_end(before: Before) -> None:
    anchored, prologue = prologue_of(before)
    assert len(prologue.sums) == 1
    assert not any("for " in line for line in prologue.before)
    assert not any("rsqrt" in line for line in anchored.epilogue(is_even=False))
    assert "rsqrt" in "\n".join(anchored.scale(prologue))


def test_a_mean_is_taken_off_before() -> None:
    _, prologue = prologue_of(layer_norm)
    assert not prologue.sums
    assert sum(line.startswith("for ") for line in prologue.before) == 2


def test_rows_that_may_overflow_are_scaled_before() -> None:
    _, prologue = prologue_of(rms_norm, DType.F16)
    assert not prologue.sums
    assert sum(line.startswith("for ") for line in prologue.before) == 1


def test_rows_as_they_are() -> None:
    anchored, prologue = prologue_of(plain)
    assert anchored.plain is not None
    assert prologue.tile.startswith("tl.load(x")
    assert prologue_of(gated)[0].plain is None


def test_chosen_rows_are_looked_up_once() -> None:
    _, prologue = prologue_of(gathered)
    assert any("tl.load(rows" in line for line in prologue.before)
    assert not any("tl.load(rows" in line for line in prologue.load)


def test_sums_are_not_loaded() -> None:
    anchored = Anchored(*linear_case(plain, residual, DType.BF16))
    lines = anchored.epilogue(is_even=True)
    assert not any("tl.load(acc" in line for line in lines)
    assert lines[-1].startswith("tl.store(")


def test_parts_are_side_by_side() -> None:
    anchored = Anchored(*linear_case(plain, glu_of_turned_halves, DType.BF16))
    assert anchored.accumulators == ["acc0", "acc1"]
    assert anchored.width == 22


def test_a_reduction_of_heads_is_refused() -> None:
    b = GraphBuilder("heads")
    x = b.input("x", TensorType(DType.BF16, (T, 4, 16)))
    normed = b.one("rms_norm", [x], {"eps": 1e-5})
    rows = b.one("reshape", [normed], {"shape": (T, 64)})
    graph = b.finish([b.one("linear", [rows, b.weight("w", TensorType(DType.BF16, (8, 64)))])])
    anchored = Anchored(graph, make_region(graph, range(3), family="linear"))
    with pytest.raises(RefusedError):
        anchored.prologue(is_even=True)


def test_a_result_of_some_columns_is_where_they_are() -> None:
    anchored = Anchored(*linear_case(plain, gate_beside_scores, DType.BF16))
    lines = "\n".join(anchored.epilogue(is_even=True))
    assert "tl.where(column < 43, 1, column - 43)" in lines
    assert lines.count("tl.store(") == 2
    text = "\n".join(
        Anchored(*linear_case(plain, units_of_unequal_parts, DType.BF16)).epilogue(is_even=True)
    )
    assert [f"column < {start}, {count}" in text for start, count in ((20, 8), (28, 16))] == [
        True
    ] * 2
    assert text.count("tl.where(column <") == 2
    assert text.count("tl.store(") == 3


def test_what_mixes_columns_is_refused() -> None:
    anchored = Anchored(*linear_case(plain, third_of_three, DType.BF16))
    with pytest.raises(RefusedError, match="reads other columns of the product"):
        anchored.epilogue(is_even=True)
