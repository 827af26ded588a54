"""Tables of what was measured, and the JSON that is kept of it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import write_results
from benchmarks.peers.rounds import Row, Sample, rows_of
from benchmarks.peers.session import Entrant, same_first_tokens

WIDTH = 150


def console() -> Console:
    """Wide enough for the tables, also where the output is no terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=WIDTH)


def figure(found: Mapping[str, Any] | None, form: str, scale: float = 1.0) -> str:
    """A median with its extremes, such as `31.2 (29.8-32.0)`; a dash if there is none."""
    if found is None:
        return "-"
    median, least, most = (found[key] * scale for key in ("median", "min", "max"))
    return f"{median:{form}} ({least:{form}}-{most:{form}})"


def seconds(found: Mapping[str, Any] | None) -> str:
    """As `figure`, for a rate of one thing a second: how long it takes."""
    if found is None:
        return "-"
    median, least, most = (1 / found[key] for key in ("median", "max", "min"))
    return f"{median:.2f} ({least:.2f}-{most:.2f})"


def speed_table(rows: Sequence[Row], phase: str, per_s: str) -> Table:
    """One phase: every engine's speed, its part of the bound, and how graphopt compares."""
    table = Table(title=phase, title_justify="left")
    rate = "seconds" if per_s == "s" else f"{per_s}/s"
    headers = ("precision", "engine", rate, "% of bound", "read GB/s", "graphopt is x", "rounds")
    for header in headers:
        table.add_column(header, no_wrap=True)
    precision = ""
    for row in rows:
        if row.phase != phase:
            continue
        if precision and row.precision != precision:
            table.add_section()
        precision = row.precision
        table.add_row(
            row.precision,
            row.engine,
            seconds(row.rate) if per_s == "s" else figure(row.rate, ".1f"),
            figure(row.of_bound, ".0f", 100.0),
            figure(row.read_gb_s, ".0f"),
            figure(row.ratio, ".2f"),
            f"{row.kept}" + (f", {row.rejected} rejected" if row.rejected else ""),
        )
    return table


def entrant_table(entrants: Sequence[Entrant]) -> Table:
    """Who took part, with what; and who did not, with the reason."""
    table = Table(title="engines", title_justify="left")
    for header in ("precision", "engine", "versions", "weights MB", "import s", "load s"):
        table.add_column(header)
    table.add_column("peak MB")
    table.add_column("same first tokens")
    for precision in dict.fromkeys(one.precision for one in entrants):
        mine = [one for one in entrants if one.precision == precision]
        same = same_first_tokens(mine)
        for one in mine:
            if one.absent:
                table.add_row(precision, one.name, f"absent: {one.absent}")
                continue
            versions = ", ".join(f"{name} {text}" for name, text in one.versions.items())
            table.add_row(
                precision,
                one.name,
                versions,
                f"{one.weight_bytes / 1e6:.0f}",
                *(f"{value or 0:.2f}" for value in (one.import_s, one.load_s)),
                f"{one.peak_bytes / 1e6:.0f}" if one.peak_bytes else "-",
                same[one.name],
            )
    return table


def write(
    name: str,
    settings: Mapping[str, Any],
    entrants: Sequence[Entrant],
    rows: Sequence[Row],
    samples: Sequence[Sample],
) -> Path:
    """Keep everything in `benchmarks/results/cpu/NAME.json`."""
    content = {
        "settings": dict(settings),
        "engines": [one.to_json() for one in entrants],
        "figures": [one.to_json() for one in rows],
        "samples": [asdict(one) | {"rate": one.rate} for one in samples],
    }
    return write_results(f"cpu/{name}", content)


def tell_and_keep(
    options: argparse.Namespace,
    kind: str,
    phases: Mapping[str, str],
    settings: Mapping[str, Any],
    entrants: Sequence[Entrant],
    samples: Sequence[Sample],
) -> None:
    """Print what a benchmark found, and keep everything.

    Args:
        options: of the command line; the file is called ``kind`` and the shape without a name.
        kind: ``decode`` or ``serve``.
        phases: titles of what was measured, and what is counted in each.
        settings: beside the shape, threads and rounds.
        entrants: who took part.
        samples: every timing.
    """
    rows = rows_of(samples)
    out = console()
    for phase, per_s in phases.items():
        out.print(speed_table(rows, phase, per_s))
    out.print(entrant_table(entrants))
    common = {name: getattr(options, name) for name in ("shape", "threads", "rounds")}
    name = options.name or f"{kind}-{options.shape}"
    path = write(name, {**common, **settings}, entrants, rows, samples)
    print(f"written to {path}")
