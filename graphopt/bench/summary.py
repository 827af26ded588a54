"""What a run came to, as plain data."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .goal import Goal
from .load import Effort
from .outcome import Outcome

PERCENTILES = (50, 90, 99)
BUSY = 0.8  # share of a core at which the client may well be the limit
LAGGING_MS = 10.0


def spread(seconds: Iterable[float]) -> dict[str, float] | None:
    """Mean and percentiles in milliseconds; None of nothing."""
    values = np.fromiter(seconds, dtype=np.float64) * 1000.0
    if not len(values):
        return None
    found = {"mean": float(values.mean())}
    found.update({f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES})
    return {**found, "max": float(values.max())}


def summary(
    outcomes: Sequence[Outcome], effort: Effort, events: int, goal: Goal | None = None
) -> dict[str, Any]:
    """Counts, rates, times and goodput of a run.

    Args:
        outcomes: what became of the requests.
        effort: what it cost the client.
        events: that the client read.
        goal: what is fast enough; None asks for no goodput.
    """
    good = [one for one in outcomes if one.ok]
    end_s = max((one.sent_s + one.e2e_s for one in outcomes), default=0.0)
    seconds = max(end_s - min((one.sent_s for one in outcomes), default=0.0), 1e-9)
    prompt, output = (
        sum(getattr(one, f"{kind}_tokens") for one in good) for kind in ("prompt", "output")
    )
    found: dict[str, Any] = {
        "seconds": seconds,
        "requests": len(outcomes),
        "completed": len(good),
        "failed": dict(sorted(Counter(one.failure for one in outcomes if not one.ok).items())),
        "errors": dict(Counter(one.error for one in outcomes if one.error).most_common(5)),
        "prompt_tokens": prompt,
        "output_tokens": output,
        "requests_per_s": len(good) / seconds,
        "output_tokens_per_s": output / seconds,
        "total_tokens_per_s": (prompt + output) / seconds,
        "ttft_ms": spread(one.ttft_s for one in good if one.ttft_s is not None),
        "tpot_ms": spread(one.tpot_s for one in good if one.tpot_s is not None),
        "itl_ms": spread(gap for one in good for gap in one.gaps_s),
        "e2e_ms": spread(one.e2e_s for one in good),
        "client": _client(outcomes, effort, events),
    }
    if goal is not None:
        met = sum(map(goal.met_by, outcomes))
        found["goodput"] = {
            "bounds_ms": dict(goal.bounds_ms),
            "met": met,
            "share": met / len(outcomes) if outcomes else 0.0,
            "requests_per_s": met / seconds,
        }
    return found


def _client(outcomes: Sequence[Outcome], effort: Effort, events: int) -> dict[str, Any]:
    """How much the client had to do, and whether that may be what was measured."""
    lag = spread(effort.lags_s)
    share = effort.cpu_s / max(effort.wall_s, 1e-9)
    return {
        "cpu_share": share,
        "cpu_us_per_event": effort.cpu_s / events * 1e6 if events else None,
        "loop_lag_ms": lag,
        "send_delay_ms": spread(one.late_s for one in outcomes),
        "limits": share > BUSY or (lag is not None and lag["p99"] > LAGGING_MS),
    }


def sustained_rate(runs: Sequence[dict[str, Any]], share: float) -> float | None:
    """The highest request rate of several runs at which so many requests were good.

    That is DistServe's goodput, as far as the rates that were tried can tell; None of none.
    """
    rates = [
        run["request_rate"]
        for run in runs
        if run.get("goodput", {}).get("share", 0.0) >= share and run["request_rate"] is not None
    ]
    return max(rates, default=None)


def detail(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Every request by itself."""
    return [dataclasses.asdict(one) for one in outcomes]
