"""When requests come."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from graphopt.errors import UsageError


def arrivals(count: int, rate: float, burstiness: float, rng: random.Random) -> Sequence[float]:
    """Seconds from the start at which ``count`` requests come, the first at 0.

    Args:
        count: how many.
        rate: requests a second on average; infinite lets all come at once.
        burstiness: shape of the gamma distribution of the gaps: 1 is a Poisson process, less comes
            in bursts, more is more even.
        rng: makes it reproducible.

    Raises:
        UsageError: a number makes no sense.
    """
    if not rate > 0:
        raise UsageError("the request rate must be positive", got=rate)
    if not 0 < burstiness < math.inf:
        raise UsageError("the burstiness must be positive", got=burstiness)
    times, now = [], 0.0
    for _ in range(count):
        times.append(now)
        if rate != math.inf:
            now += rng.gammavariate(burstiness, 1.0 / (rate * burstiness))
    return times
