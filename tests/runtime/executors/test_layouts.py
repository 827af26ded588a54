"""Layouts are worked out once for all who ask for the same sizes."""

from __future__ import annotations

from graphopt.arena import layout
from graphopt.runtime.executors.layouts import Layouts, power_of_two_from
from tests.runtime.executors.test_slots import plan


def test_a_layout_is_that_of_its_sizes() -> None:
    layouts = Layouts(plan())
    assert layouts.at(8, 4, 2) == layout(plan(), {"T": 8, "R": 4, "S": 2, "P": 1})
    assert layouts.at(8, 4, 2) is layouts.at(8, 4, 2)
    assert layouts.at(16, 4, 2).peak_bytes > layouts.at(8, 4, 2).peak_bytes


def test_powers_of_two() -> None:
    assert [power_of_two_from(n) for n in (0, 1, 2, 3, 4, 5, 1000)] == [1, 1, 2, 4, 4, 8, 1024]
