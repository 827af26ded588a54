"""What the compiler and the runtime agree on about the kernels between steps."""

from __future__ import annotations

from dataclasses import fields

from graphopt.loop_kernels import (
    ADVANCE_OPERANDS,
    ADVANCE_RESULTS,
    ADVANCED,
    FROM_HOST,
    LOOP_KERNELS,
    PADDING,
    SAMPLE_OPERANDS,
    SAMPLE_RESULTS,
    TAKE_OPERANDS,
    TAKE_RESULTS,
)
from graphopt.runtime.executor import Sampled, StepInputs


def test_sampling_gives_what_an_executor_gives() -> None:
    given = [field.name for field in fields(Sampled)]
    assert [*SAMPLE_RESULTS, "vectors"] == given  # rows of plans that embed are not drawn from


def test_advancing_makes_all_that_a_step_takes() -> None:
    # Tokens that see what comes after them are not decoded.
    made = {*ADVANCE_RESULTS, "lengths", "tables", "reaches"}
    assert made == {field.name for field in fields(StepInputs)}
    assert set(ADVANCED) <= ADVANCE_OPERANDS.keys()


def test_what_is_shared_has_one_type() -> None:
    assert ADVANCE_OPERANDS["counters"] is SAMPLE_OPERANDS["counters"]
    assert ADVANCE_OPERANDS["sampled"] is SAMPLE_RESULTS["token_ids"]
    assert ADVANCE_RESULTS["token_ids"] is SAMPLE_RESULTS["token_ids"]
    assert list(ADVANCE_OPERANDS.items())[:3] == list(TAKE_OPERANDS.items())
    assert TAKE_RESULTS["token_ids"] is SAMPLE_RESULTS["token_ids"]


def test_names_and_marks_are_told_apart() -> None:
    assert len(set(LOOP_KERNELS)) == 3
    assert FROM_HOST < 0
    assert PADDING < 0
    assert FROM_HOST != PADDING
