"""Timed steps begin once every prompt has its first token, and give one token each."""

from __future__ import annotations

import time

import pytest

from benchmarks.peers.stepping import timed


def test_prompts_that_come_one_after_the_other() -> None:
    made = iter([{"a": [1]}, {"a": [2]}, {"a": [3], "b": [7]}, {"a": [4], "b": [8]}] * 2)
    found = timed(["a", "b"], lambda: next(made), 1, time.perf_counter())
    assert found.tokens == [[1, 2], [7, 8]]
    assert found.first_s > 0
    assert found.decode_s > 0


def test_first_tokens_alone() -> None:
    assert timed(["a"], lambda: {"a": [5]}, 0, time.perf_counter()).tokens == [[5]]


def test_a_step_that_leaves_one_out_is_no_timing() -> None:
    made = iter([{"a": [1], "b": [1]}, {"a": [2]}])
    with pytest.raises(RuntimeError, match="1 steps of 2 requests gave 1 tokens"):
        timed(["a", "b"], lambda: next(made), 1, time.perf_counter())
