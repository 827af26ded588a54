"""Lengths: what is understood, and that draws are of the distribution."""

from __future__ import annotations

import random
import statistics

import pytest

from graphopt.bench.lengths import MOST_TOKENS, Lengths
from graphopt.errors import UsageError


@pytest.mark.parametrize(
    "text", ["1", "128", "uniform:64:256", "normal:256:64", "lognormal:99.5:0.5"]
)
def test_what_is_read_is_what_is_written(text: str) -> None:
    assert str(Lengths.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "1.5", "a", "uniform", "uniform:5", "uniform:5:4", "uniform:1:2.5", "normal:1",
     "normal:5:-1", "zipf:1:2", "1:2:3", "nan", "inf", "normal:nan:1", "normal:5:inf",
     "fixed:5:0.5", "uniform:1:99999999"],
)  # fmt: skip
def test_what_is_not_a_distribution_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no distribution of lengths") as caught:
        Lengths.parse(text)
    assert caught.value.got == text


def draws(text: str, count: int = 4000) -> list[int]:
    rng = random.Random(7)
    one = Lengths.parse(text)
    return [one.draw(rng) for _ in range(count)]


def test_draws_are_of_the_distribution() -> None:
    assert set(draws("17", 9)) == {17}
    assert set(draws("uniform:3:5")) == {3, 4, 5}
    normal = draws("normal:200:20")
    assert statistics.mean(normal) == pytest.approx(200, abs=2)
    assert statistics.stdev(normal) == pytest.approx(20, abs=1)
    lognormal = draws("lognormal:100:0.5")
    assert statistics.median(lognormal) == pytest.approx(100, rel=0.03)
    assert statistics.mean(lognormal) == pytest.approx(113.3, rel=0.05)  # 100 * exp(0.5² / 2)


def test_lengths_are_never_absurd() -> None:
    assert min(draws("normal:2:50")) == 1
    assert max(draws("lognormal:1000:500")) == MOST_TOKENS
