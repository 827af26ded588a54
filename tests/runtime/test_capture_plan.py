"""Sizes of captures, what they cost, and what is said of them."""

from __future__ import annotations

from graphopt.runtime.capture_plan import CapturePlan


def test_keeping_some_sizes_keeps_their_bytes_and_says_why():
    plan = CapturePlan((1, 2, 4), (16, 32), 8, 20, (10, 20, 40), (160, 320), ("first.",))
    less = plan.keeping([1, 2], [16, 99], "Memory ran out.")
    assert less == CapturePlan(
        (1, 2), (16,), 8, 20, (10, 20), (160,), ("first.", "Memory ran out.")
    )
    assert plan.total_bytes == 550
    assert less.total_bytes == 190
