"""Distributions against sorting and counting."""

from __future__ import annotations

import math
import random

import pytest

from graphopt.runtime.server.distribution import Distribution, Quantiles


@pytest.mark.parametrize("seed", range(5))
def test_buckets_hold_what_is_no_larger(seed: int) -> None:
    rng = random.Random(seed)
    bounds = sorted({rng.randint(1, 50) / 4 for _ in range(rng.randint(1, 9))})
    numbers = [rng.randint(-2, 60) / 4 for _ in range(rng.randint(0, 300))]
    one = Distribution(bounds)
    for number in numbers:
        one.observe(number)
    assert one.cumulative() == [
        (repr(bound), sum(number <= bound for number in numbers)) for bound in bounds
    ] + [("+Inf", len(numbers))]
    assert one.sum == pytest.approx(sum(numbers))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 101, 997])
def test_quantiles_are_the_numbers_at_their_ranks(count: int) -> None:
    numbers = list(range(1, count + 1))
    random.Random(count).shuffle(numbers)
    one = Distribution((1.0,))
    for number in numbers:
        one.observe(number)
    found = one.quantiles()
    assert found == Quantiles(count, *(math.ceil(count * p / 100) for p in (50, 90, 99)))


def test_quantiles_are_of_the_last_numbers() -> None:
    one = Distribution((1.0,), keep=3)
    assert one.quantiles() is None
    for number in (100.0, 1.0, 2.0, 3.0):
        one.observe(number)
    assert one.quantiles() == Quantiles(3, 2.0, 3.0, 3.0)
    assert one.counts == [1, 3]
