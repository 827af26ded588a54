"""The suite's table: what is right, how fast it is, and how fast others are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from .bench import fractions
from .rates import Rates

_STYLES = {"right": "green", "wrong": "red", "failed": "red", "crashed": "red", "hung": "red"}


def correctness_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every case that is not right, and how many of each family are."""
    table = Table("family", "right", "others", title="correctness, against float64")
    for family in dict.fromkeys(row.get("family", "?") for row in rows.values()):
        own = {name: row for name, row in rows.items() if row.get("family", "?") == family}
        right = sum(row["status"] == "right" for row in own.values())
        others = [
            f"{name}: [{_STYLES.get(row['status'], 'yellow')}]{row['status']}[/] "
            f"{_escaped(str(row.get('reason', ''))[:160])}"
            for name, row in own.items()
            if row["status"] != "right"
        ]
        table.add_row(family, f"{right} of {len(own)}", "\n".join(_folded(others)))
    return table


def times_table(rows: Mapping[str, Mapping[str, Any]], rates: Rates) -> Table:
    """Our time, what it is of the device's rates, and every peer's time."""
    title = (
        f"copy {rates.bytes_per_second / 1e12:.2f} TB/s, "
        f"product {rates.flops_per_second / 1e12:.0f} TFLOP/s; "
        "times in microseconds, peers with what they take of ours"
    )
    table = Table("case", "error", title=title)
    for name in ("time", "spread", "of copy", "of product", "of bound"):
        table.add_column(name, justify="right")
    table.add_column("peers")
    for row in rows.values():
        if "times" not in row:
            style = _STYLES.get(row["status"], "yellow")
            reason = _escaped(str(row.get("reason", ""))[:90])
            table.add_row(str(row.get("name", "?")), "", f"[{style}]{row['status']}[/]", "", "", "",
                          "", reason)  # fmt: skip
            continue
        ours, parts = row["times"]["graphopt"], fractions(dict(row), rates)
        table.add_row(
            row["name"],
            f"{row['error']:.0e}",
            f"{ours['median_us']:.1f}",
            f"{ours['spread']:.0%}",
            f"{parts['of_copy']:.0%}",
            f"{parts['of_product']:.0%}",
            f"{parts['of_bound']:.0%}",
            _peers(row),
        )
    return table


def _peers(row: Mapping[str, Any]) -> str:
    ours = row["times"]["graphopt"]["median_us"]
    found = [
        f"{name} {timing['median_us']:.1f} ({timing['median_us'] / ours:.2f})"
        for name, timing in row["times"].items()
        if name != "graphopt"
    ]
    out = [f"{name}: {peer['status']}" for name, peer in row.get("peers", {}).items()
           if peer["status"] not in ("right", "unchecked")]  # fmt: skip
    return ", ".join(found + out)


def resources_table(reports: Mapping[str, Iterable[Mapping[str, Any]]]) -> Table:
    """What each kernel's launches take of the GPU."""
    table = Table("kernel", "launch", title="resources")
    names = ("registers", "spill_bytes", "shared_bytes", "programs", "wide_loads", "narrow_loads")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("problems")
    for kernel, launches in reports.items():
        for one in launches:
            shown = one["launch"].removeprefix(kernel)
            figures = [str(one.get(name, "-")) for name in names]
            problems = _escaped("; ".join(one["problems"])[:200])
            table.add_row(kernel, _escaped(shown), *figures, f"[red]{problems}[/]")
    return table


def console() -> Console:
    """Wide enough for the tables where nobody says how wide it is."""
    found = Console()
    return found if found.is_terminal else Console(width=200)


def _folded(lines: list[str]) -> list[str]:
    return [*lines[:12], f"and {len(lines) - 12} more"] if len(lines) > 12 else lines


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
