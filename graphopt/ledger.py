"""Decisions and their reasons: what a rule or a backend applied, what it refused, and why.

Passes and code generators write here; ``graphopt inspect --ledger`` prints it. A refusal always
carries a sentence, so that a fusion that did not happen is never silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer with its reason.

    Attributes:
        accepted: whether the rule or backend may act.
        reason: one sentence; empty only for an acceptance that explains itself.
        saves_bytes: bytes of memory traffic saved per step at one token, where known.
        culprits: names of the values or nodes at fault.
    """

    accepted: bool
    reason: str = ""
    saves_bytes: int = 0
    culprits: tuple[str, ...] = ()


def accept(reason: str = "", *, saves_bytes: int = 0) -> Verdict:
    """A verdict in favour."""
    return Verdict(True, reason, saves_bytes)


def refuse(reason: str, *culprits: object) -> Verdict:
    """A verdict against, with the values or nodes at fault."""
    return Verdict(False, reason, culprits=tuple(map(str, culprits)))


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision: which rule, at which place of the model, and the verdict."""

    rule: str
    where: str
    applied: bool
    reason: str
    saves_bytes: int = 0
    culprits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass did.

    Attributes:
        name: the pass.
        modified: whether the graph changed.
        rewrites: how many rewrites it applied.
        seconds: how long it took, verification included.
        nodes_before: number of nodes it was given.
        nodes_after: number of nodes it gave back.
        bytes_before: bytes that the nodes move when each runs alone, decoding one token.
        bytes_after: the same for its result.
    """

    name: str
    modified: bool
    rewrites: int
    seconds: float
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int


@dataclass(slots=True)
class Ledger:
    """Decisions in the order they were taken."""

    entries: list[Entry] = field(default_factory=list)

    def record(self, rule: str, where: str, verdict: Verdict) -> None:
        """Write down what ``rule`` decided at ``where``."""
        self.entries.append(
            Entry(
                rule, where, verdict.accepted, verdict.reason, verdict.saves_bytes, verdict.culprits
            )
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data for ``ledger.json``."""
        return [asdict(entry) for entry in self.entries]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> Ledger:
        """The ledger that ``to_json`` wrote."""
        return cls([Entry(**{**row, "culprits": tuple(row["culprits"])}) for row in rows])
