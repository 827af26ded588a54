"""How long work tells its caller how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

# Called with a sentence that names the stage, how much is done, and of how much (0: unknown).
ProgressFn = Callable[[str, int, int], None]

T = TypeVar("T")


def silent(stage: str, done: int, total: int) -> None:
    """Listens to nothing."""


def counted(items: Sequence[T], stage: str, progress: ProgressFn) -> Iterator[T]:
    """``items``, reporting before each one how many came before it."""
    for number, item in enumerate(items):
        progress(stage, number, len(items))
        yield item
    progress(stage, len(items), len(items))


def weighed(
    items: Iterable[tuple[T, int]], stage: str, total: int, progress: ProgressFn
) -> Iterator[T]:
    """The first of each pair, reporting how much of ``total`` the seconds add up to so far."""
    done = 0
    for item, weight in items:
        progress(stage, done, total)
        yield item
        done += weight
    progress(stage, done, total)
