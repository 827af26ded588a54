"""How many tokens: ``128``, ``uniform:64:256``, ``normal:256:64`` or ``lognormal:256:0.5``."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from graphopt.errors import UsageError

MOST_TOKENS = 1 << 22
FORMS = "N, uniform:LOW:HIGH, normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA"
KINDS = ("fixed", "uniform", "normal", "lognormal")


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of lengths.

    Attributes:
        kind: ``fixed``, ``uniform``, ``normal`` or ``lognormal``.
        first: the length, the least, the mean or the median.
        second: the most, the standard deviation, or that of the logarithm.

    Usage: ``Lengths.parse("lognormal:256:0.5").draw(random.Random(0))``.
    """

    kind: str
    first: float
    second: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """The distribution that ``text`` describes.

        Raises:
            UsageError: it describes none.
        """
        kind, *numbers = text.split(":")
        if not numbers:
            kind, numbers = "fixed", [kind, "0"]
        try:
            first, second = (float(number) for number in numbers)
        except ValueError:
            raise _wrong(text) from None
        sensible = 1 <= first <= MOST_TOKENS and 0 <= second < math.inf
        whole = kind in ("normal", "lognormal") or (first.is_integer() and second.is_integer())
        ordered = kind != "uniform" or first <= second <= MOST_TOKENS
        if kind not in KINDS or not (sensible and whole and ordered):
            raise _wrong(text)
        return cls(kind, first, second)

    def __str__(self) -> str:
        if self.kind == "fixed":
            return f"{self.first:g}"
        return f"{self.kind}:{self.first:g}:{self.second:g}"

    def draw(self, rng: random.Random) -> int:
        """A length, at least 1."""
        if self.kind == "uniform":
            return rng.randint(int(self.first), int(self.second))
        value = self.first
        if self.kind == "normal":
            value = rng.gauss(self.first, self.second)
        elif self.kind == "lognormal":
            # An exponent this large is past any context, and exp() of a larger one would overflow.
            value = self.first * math.exp(min(40.0, self.second * rng.gauss(0.0, 1.0)))
        return min(MOST_TOKENS, max(1, round(value)))


def _wrong(text: str) -> UsageError:
    return UsageError("this is no distribution of lengths", got=text, expected=FORMS)
