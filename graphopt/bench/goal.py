"""What is fast enough: ``ttft:200 tpot:50``, in milliseconds.

A request is good if it was answered in full within every bound. Goodput is good requests a second;
the goodput of a server, as DistServe (Zhong and others, OSDI 2024) has it, is the highest request
rate at which a given share of the requests, usually 90 %, is good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from graphopt.errors import UsageError

from .outcome import Outcome

NAMES = ("ttft", "tpot", "itl", "e2e")


@dataclass(frozen=True, slots=True)
class Goal:
    """Bounds in milliseconds by the name of the time; ``itl`` bounds the longest gap of all."""

    bounds_ms: Mapping[str, float]

    @classmethod
    def parse(cls, words: Iterable[str]) -> Goal:
        """The bounds that words such as ``ttft:200`` name.

        Raises:
            UsageError: a word names none.
        """
        bounds: dict[str, float] = {}
        for word in words:
            name, _, number = word.partition(":")
            try:
                bound = float(number)
            except ValueError:
                bound = math.nan
            if name not in NAMES or name in bounds or not 0 < bound < math.inf:
                raise UsageError(
                    "this is no bound on a time",
                    got=word,
                    expected=f"each of {', '.join(NAMES)} at most once, as in ttft:200, in ms",
                )
            bounds[name] = bound
        return cls(bounds)

    def met_by(self, one: Outcome) -> bool:
        """Whether a request was good; one of a single token has no time per token to exceed."""
        if not one.ok or one.ttft_s is None:
            return False
        times = {
            "ttft": one.ttft_s,
            "tpot": one.tpot_s or 0.0,
            "itl": max(one.gaps_s, default=0.0),
            "e2e": one.e2e_s,
        }
        return all(times[name] * 1000.0 <= bound for name, bound in self.bounds_ms.items())
