"""The file that a run leaves: all it has found so far, so that one cut short leaves it too."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .ahead import Report
from .rates import Rates

# Seconds between two writes while rows come.
EVERY = 5.0


class Record:
    """Rows as they come, and what they were measured on.

    Args:
        path: of the file; None to write nothing.
        facts: the machine, the clocks and whatever else does not change.
    """

    def __init__(self, path: Path | None, facts: Mapping[str, Any]) -> None:
        self._path = path
        self._facts = dict(facts)
        self._rows: dict[str, Mapping[str, Any]] = {}
        self._started = time.time()
        self._written = 0.0

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """One more row."""
        self._rows[name] = row
        if time.time() - self._written > EVERY:
            self.write()

    def write(self, **more: Any) -> None:
        """Write the file as a whole, with ``more`` facts; it is never half written."""
        self._facts |= more
        self._written = time.time()
        if self._path is None:
            return
        found = {**self._facts, "seconds": self._written - self._started, "rows": self._rows}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        own = self._path.with_suffix(".part")
        own.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
        os.replace(own, self._path)


def grouped(reports: Sequence[Report]) -> dict[str, list[dict[str, Any]]]:
    """Reports by kernel."""
    found: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        found.setdefault(report.kernel, []).append(report.as_json())
    return found


def rates_of(rates: Rates | None) -> dict[str, float] | None:
    """Rates as JSON has them."""
    return rates.as_json() if rates else None
