"""The table of whole models: a row for each phase, a column for each engine."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table


def e2e_table(rows: Iterable[Mapping[str, Any]], engines: Sequence[str]) -> Table:
    """Medians, and beside ours what they are of it; why there is none, below.

    Args:
        rows: with ``engine``, ``phase``, and either ``unit`` and ``samples`` or a ``reason``.
        engines: in the order of the columns, ours first.
    """
    by_phase: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_phase.setdefault(row["phase"], {})[row["engine"]] = row
    table = Table("phase", "unit", *engines, title="medians; x is how often as good as we are")
    for phase, found in by_phase.items():
        ours = _median(found.get(engines[0]))
        unit = next((row["unit"] for row in found.values() if "unit" in row), "")
        cells = [_cell(_median(found.get(name)), ours, unit) for name in engines[1:]]
        table.add_row(phase, unit, "absent" if ours is None else _number(ours), *cells)
    reasons = dict.fromkeys(
        f"{row['engine']}: {row['reason'][:160]}"
        for found in by_phase.values()
        for row in found.values()
        if "reason" in row
    )
    table.caption = "\n".join(reasons) or None
    return table


def _median(row: Mapping[str, Any] | None) -> float | None:
    return statistics.median(row["samples"]) if row and row.get("samples") else None


def _cell(median: float | None, ours: float | None, unit: str) -> str:
    if median is None:
        return "absent"
    if not ours or not median or unit == "%":
        return _number(median)
    better = median / ours if unit.endswith("/s") else ours / median
    return f"{_number(median)} ({better:.2f}x)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
