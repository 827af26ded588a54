"""Arrivals: their rate, and how evenly they come."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from graphopt.bench.arrivals import arrivals
from graphopt.errors import UsageError


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
@pytest.mark.parametrize("rate", [0.5, 40.0])
def test_gaps_have_the_rate_and_the_spread(rate: float, burstiness: float) -> None:
    times = arrivals(20_000, rate, burstiness, random.Random(3))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] == 0.0
    assert min(gaps) >= 0
    assert statistics.mean(gaps) == pytest.approx(1 / rate, rel=0.05)
    # of a gamma distribution: the square of deviation over mean is 1 over the shape
    assert (statistics.stdev(gaps) * rate) ** 2 == pytest.approx(1 / burstiness, rel=0.1)


def test_all_at_once() -> None:
    assert list(arrivals(3, math.inf, 1.0, random.Random(0))) == [0.0, 0.0, 0.0]


def test_the_seed_decides() -> None:
    one, same, other = (arrivals(50, 2.0, 1.0, random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("rate", "burstiness"), [(0, 1), (-1, 1), (math.nan, 1), (1, 0), (1, math.inf)]
)
def test_nonsense_is_refused(rate: float, burstiness: float) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        arrivals(1, rate, burstiness, random.Random(0))
