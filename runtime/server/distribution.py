"""How often a number was how large: a histogram whose observing costs next to nothing.

prometheus-client's own takes a lock for each bucket that a number falls into, several microseconds
for a token; one event loop needs no lock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of the numbers seen last.

    Attributes:
        count: how many they are.
        p50: at least half of them are no larger.
        p90: likewise nine in ten.
        p99: likewise 99 in 100.
    """

    count: int
    p50: float
    p90: float
    p99: float


class Distribution:
    """Counts of numbers up to each bound, their sum, and the last of them one by one.

    Args:
        bounds: upper ends of the buckets, rising; larger numbers fall in one more bucket.
        keep: how many numbers are kept for ``quantiles``.

    Attributes:
        counts: numbers in each bucket, the last one being that of everything larger.
        sum: of all numbers.
    """

    __slots__ = ("_recent", "bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float], keep: int = 1024) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        self._recent: deque[float] = deque(maxlen=keep)

    def observe(self, value: float) -> None:
        """Count one number."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self._recent.append(value)

    def cumulative(self) -> list[tuple[str, float]]:
        """For each bound, as Prometheus writes it, how many numbers are no larger."""
        total, found = 0, []
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            total += count
            found.append(("+Inf" if bound == math.inf else repr(float(bound)), float(total)))
        return found

    def quantiles(self) -> Quantiles | None:
        """Of the last numbers; None if there is none."""
        if not self._recent:
            return None
        ranked = sorted(self._recent)
        p50, p90, p99 = (ranked[math.ceil(p * len(ranked) / 100) - 1] for p in (50, 90, 99))
        return Quantiles(len(ranked), p50, p90, p99)
