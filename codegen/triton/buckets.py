"""Which variants of a kernel a plan can reach, and which of them are alternatives.

before:  a kernel's variants in order, and how large each size can be
after:   buckets: bounds, with the candidates that may run there, each bucket reached by some step

Variants with equal bounds that follow one another are alternatives: only one of them is called. A
bucket that no step's sizes reach first is never called, so nothing of it is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from graphopt.launch import bucket_name

from .kernel import Variant


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sizes within bounds, and what may run there.

    Attributes:
        below: the bounds.
        candidates: alternatives, the model's pick first.
    """

    below: Mapping[str, int]
    candidates: tuple[Variant, ...]

    @property
    def name(self) -> str:
        """The bounds as text."""
        return bucket_name(self.below)

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is for a step of these sizes."""
        return all(sizes[name] <= bound for name, bound in self.below.items())


def buckets_of(variants: Sequence[Variant]) -> tuple[Bucket, ...]:
    """The variants by their bounds, in order."""
    found: list[Bucket] = []
    for one in variants:
        if found and dict(found[-1].below) == dict(one.below):
            found[-1] = Bucket(one.below, (*found[-1].candidates, one))
        else:
            found.append(Bucket(one.below, (one,)))
    return tuple(found)


def reachable(buckets: Sequence[Bucket], most: Mapping[str, int]) -> tuple[Bucket, ...]:
    """The buckets that are the first to fit for some sizes of a step.

    Args:
        buckets: in order.
        most: how large a size can be; one that is missing has no end.
    """
    called = {first_fit(buckets, sizes) for sizes in corners(buckets, most)}
    return tuple(one for place, one in enumerate(buckets) if place in called)


def first_fit(buckets: Sequence[Bucket], sizes: Mapping[str, int]) -> int | None:
    """The place of the bucket that a step of these sizes runs; None if there is none."""
    return next((place for place, one in enumerate(buckets) if one.fits(sizes)), None)


def corners(buckets: Sequence[Bucket], most: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Sizes among which each set of buckets that can fit together does: those at the bounds."""
    names = sorted({name for one in buckets for name in one.below})
    points = []
    for name in names:
        bounds = sorted({one.below[name] for one in buckets if name in one.below})
        end = most.get(name, bounds[-1] + 1)
        points.append(sorted({min(place, end) for bound in bounds for place in (bound, bound + 1)}))
    for sizes in product(*points):
        yield dict(zip(names, sizes, strict=True))
