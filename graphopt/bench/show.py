"""A run as tables of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

TIMES = (
    ("ttft_ms", "time to first token"),
    ("tpot_ms", "time per token after it"),
    ("itl_ms", "time between tokens"),
    ("e2e_ms", "whole request"),
)
RANKS = ("mean", "p50", "p90", "p99", "max")


def times_table(run: dict[str, Any]) -> Table:
    """What requests took, in milliseconds."""
    table = Table(title="milliseconds", title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for rank in RANKS:
        table.add_column(rank, justify="right")
    for key, name in TIMES:
        one = run[key]
        table.add_row(name, *(f"{one[rank]:,.2f}" if one else "-" for rank in RANKS))
    return table


def facts(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Counts and rates, by their names."""
    failed = ", ".join(f"{count} with {kind}" for kind, count in run["failed"].items())
    client = run["client"]
    per_event = client["cpu_us_per_event"]
    rows = [
        ("requests", f"{run['completed']:,} of {run['requests']:,} answered"),
        ("failed", failed),
        ("first error", next(iter(run["errors"]), "")),
        ("seconds", f"{run['seconds']:.2f}"),
        ("requests a second", f"{run['requests_per_s']:.2f}"),
        ("tokens a second", f"{run['output_tokens_per_s']:,.1f} generated, "
         f"{run['total_tokens_per_s']:,.1f} with prompts"),
        ("tokens", f"{run['prompt_tokens']:,} in prompts, {run['output_tokens']:,} generated"),
    ]  # fmt: skip
    if goodput := run.get("goodput"):
        bounds = ", ".join(f"{name} {bound:g}" for name, bound in goodput["bounds_ms"].items())
        rows.append(
            (
                "goodput",
                f"{goodput['requests_per_s']:.2f} requests a second within {bounds} ms, "
                f"{goodput['share']:.1%} of all",
            )
        )
    lag = client["loop_lag_ms"]
    rows.append(
        (
            "this client",
            f"{client['cpu_share']:.0%} of a core"
            + (f", {per_event:.0f} µs for an event" if per_event else "")
            + (f", timers late by {lag['p99']:.1f} ms (99 %)" if lag else ""),
        )
    )
    if client["limits"]:
        rows.append(("beware", "this client, or the machine that it shares, may be the limit"))
    return [(name, text) for name, text in rows if text]


def sweep_table(runs: Sequence[dict[str, Any]]) -> Table:
    """Several request rates side by side."""
    table = Table(box=None, pad_edge=False)
    heads = (
        "rate",
        "requests/s",
        "tokens/s",
        "ttft p50",
        "ttft p99",
        "tpot p50",
        "tpot p99",
        "good",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for run in runs:
        cells = [_rate(run["request_rate"]), f"{run['requests_per_s']:.2f}",
                 f"{run['output_tokens_per_s']:,.0f}"]  # fmt: skip
        for key in ("ttft_ms", "tpot_ms"):
            cells.extend(f"{run[key][rank]:,.1f}" if run[key] else "-" for rank in ("p50", "p99"))
        goodput = run.get("goodput")
        table.add_row(*cells, f"{goodput['share']:.1%}" if goodput else "-")
    return table


def _rate(rate: float | None) -> str:
    return "all at once" if rate is None else f"{rate:g}"
