"""The ledger told shortly: equal decisions in many layers are one row with a count and a range.

before:  merge-qkv applied at %12 model.layers.0.self_attn, at %98 model.layers.1.self_attn, ...
after:   merge-qkv applied in 32 places of model.layers.0-31.self_attn
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphopt.ledger import Entry

from .paths import fill_layer, ranges, split_layer, without_names


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions that differ in names and layers alone.

    Attributes:
        scope: path of the module, ``*`` for the layer's number.
        layers: the layers, ascending; empty outside of layers.
        entries: the decisions as they were taken; the first stands for all.
    """

    scope: str
    layers: tuple[int, ...]
    entries: tuple[Entry, ...]

    @property
    def first(self) -> Entry:
        """The decision that stands for all."""
        return self.entries[0]

    @property
    def saves_bytes(self) -> int:
        """Bytes that all of them save together."""
        return sum(entry.saves_bytes for entry in self.entries)

    @property
    def where(self) -> str:
        """The place if there is one, else the module of all places with its layers."""
        if len(self.entries) == 1 or not self.scope:
            return self.first.where
        return fill_layer(self.scope, ranges(self.layers) or None)


@dataclass(frozen=True, slots=True)
class Total:
    """What one rule decided, over the whole model."""

    rule: str
    applied: int
    refused: int
    saves_bytes: int


def split_where(where: str) -> tuple[str, str]:
    """The value's name and the module's path of a place; either may be empty.

    The name of a weight is a path.
    """
    value, _, scope = where.partition(" ") if where.startswith("%") else ("", "", where)
    return value, scope.strip()


def group_decisions(entries: Iterable[Entry]) -> tuple[Decisions, ...]:
    """Equal decisions together: rule by rule, each in the order of its first occurrence."""
    groups: dict[tuple[str, bool, str, str], list[Entry]] = {}
    for entry in entries:
        scope = split_layer(split_where(entry.where)[1])[0]
        key = (entry.rule, entry.applied, scope, without_names(entry.reason))
        groups.setdefault(key, []).append(entry)
    rules = {rule: number for number, rule in enumerate(dict.fromkeys(key[0] for key in groups))}
    return tuple(
        Decisions(key[2], _layers(groups[key]), tuple(groups[key]))
        for key in sorted(groups, key=lambda key: rules[key[0]])
    )


def _layers(entries: Sequence[Entry]) -> tuple[int, ...]:
    found = (split_layer(split_where(entry.where)[1])[1] for entry in entries)
    return tuple(sorted({layer for layer in found if layer is not None}))


def totals(entries: Iterable[Entry]) -> tuple[Total, ...]:
    """What each rule decided, in the order of first occurrence."""
    sums: dict[str, list[int]] = {}
    for entry in entries:
        row = sums.setdefault(entry.rule, [0, 0, 0])
        row[0 if entry.applied else 1] += 1
        row[2] += entry.saves_bytes if entry.applied else 0
    return tuple(Total(rule, *row) for rule, row in sums.items())
