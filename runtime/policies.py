"""Who runs next: small classes behind one protocol, shared by the engine and any simulator."""

from __future__ import annotations

from collections import abc
from types import MappingProxyType
from typing import Protocol

from graphopt.errors import UsageError

from .sequence import Sequence


class Policy(Protocol):
    """Decides who runs next. Sees sequences and the time, never memory or devices."""

    def order(
        self, waiting: abc.Sequence[Sequence], running: abc.Sequence[Sequence], now_ms: float
    ) -> abc.Iterable[Sequence]:
        """Sequences in the order in which they may take tokens from this step's budget.

        Most deserving first; when blocks run out, the least deserving of the running loses its
        blocks. Every running sequence must be among them. ``waiting`` is in order of arrival. The
        result may be lazy: what comes after the last sequence that fits is never asked for.
        """


class Fcfs:
    """First come, first served: no sequence waits for one that came after it."""

    def order(
        self, waiting: abc.Sequence[Sequence], running: abc.Sequence[Sequence], now_ms: float
    ) -> abc.Iterable[Sequence]:
        """Running sequences in order of arrival, then waiting ones."""
        del now_ms
        yield from sorted(running, key=lambda sequence: sequence.ticket)
        yield from waiting


class Priority:
    """The most urgent request first (smallest ``priority``), then the one that came first."""

    def order(
        self, waiting: abc.Sequence[Sequence], running: abc.Sequence[Sequence], now_ms: float
    ) -> abc.Iterable[Sequence]:
        """All sequences by priority, then by arrival."""
        del now_ms
        both = (*running, *waiting)
        return sorted(both, key=lambda sequence: (sequence.request.priority, sequence.ticket))


POLICIES: abc.Mapping[str, type[Fcfs | Priority]] = MappingProxyType(
    {"fcfs": Fcfs, "priority": Priority}
)


def make_policy(name: str) -> Policy:
    """The policy called ``name``.

    Raises:
        UsageError: there is none.
    """
    if name not in POLICIES:
        raise UsageError(
            "unknown scheduling policy", got=name, expected=" or ".join(sorted(POLICIES))
        )
    return POLICIES[name]()
