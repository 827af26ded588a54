"""A run as pictures: a PNG, and the same in a terminal; an extra, ``graphopt[bench]``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import MachineError

from .outcome import Outcome

FIRST, SECOND, SOFT = "#0b62d6", "#c7620a", "#5b6470"
MOST_POINTS = 400


def need(*modules: str) -> None:
    """Demand libraries before a run is made for them.

    Raises:
        MachineError: one is not installed.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MachineError(
                f"pictures need {name}", got=str(error), next="pip install 'graphopt[bench]'"
            ) from error


def shares(seconds: Sequence[float]) -> tuple[list[float], list[float]]:
    """For times in seconds, in milliseconds and rising: the share that is no larger."""
    values = np.sort(np.asarray(seconds, dtype=np.float64)) * 1000.0
    if len(values) > MOST_POINTS:
        values = np.quantile(values, np.linspace(0.0, 1.0, MOST_POINTS))
    return values.tolist(), ((np.arange(len(values)) + 1) / max(1, len(values))).tolist()


def tokens_over_time(
    outcomes: Sequence[Outcome], width_s: float
) -> tuple[list[float], list[float]]:
    """Tokens a second in each stretch of ``width_s`` seconds, and where it begins."""
    stamps: list[float] = []
    for one in outcomes:
        if one.ttft_s is not None:
            stamps.extend(np.cumsum([one.sent_s + one.ttft_s, *one.gaps_s]).tolist())
    if not stamps:
        return [], []
    edges = np.arange(0.0, max(stamps) + 2 * width_s, width_s)
    counts, _ = np.histogram(stamps, edges)
    return edges[:-1].tolist(), (counts / width_s).tolist()


def under_way(outcomes: Sequence[Outcome]) -> tuple[list[float], list[float]]:
    """Times at which a request was sent or ended, and how many were under way from then on."""
    changes = sorted(
        [(one.sent_s, 1) for one in outcomes] + [(one.sent_s + one.e2e_s, -1) for one in outcomes]
    )
    return [at for at, _ in changes], np.cumsum([by for _, by in changes]).astype(float).tolist()


def _series(outcomes: Sequence[Outcome]) -> dict[str, tuple[list[float], list[float]]]:
    good = [one for one in outcomes if one.ok]
    end_s = max((one.sent_s + one.e2e_s for one in outcomes), default=1.0)
    return {
        "time to first token": shares([one.ttft_s for one in good if one.ttft_s is not None]),
        "time between tokens": shares([gap for one in good for gap in one.gaps_s]),
        "tokens per second": tokens_over_time(good, max(end_s / 60, 0.02)),
        "requests under way": under_way(outcomes),
    }


def draw_png(path: Path, title: str, outcomes: Sequence[Outcome]) -> None:
    """Write four charts to ``path``: two distributions, and two courses over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), dpi=130, layout="constrained")
    figure.suptitle(title)
    for place, (name, (x, y)) in enumerate(_series(outcomes).items(), 1):
        axes = figure.add_subplot(2, 2, place)
        axes.set_title(name, fontsize=11, loc="left")
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if place <= 2:
            axes.plot(x, y, color=FIRST)
            axes.set_xlabel("ms")
            axes.set_ylabel("share of requests" if place == 1 else "share of tokens")
            axes.set_ylim(0, 1.02)
            axes.axhline(0.99, color=SECOND, linewidth=0.8, linestyle="--")
            axes.text(1.0, 0.99, " 99 %", color=SECOND, fontsize=8, va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
        else:
            axes.step(x, y, where="post", color=FIRST, linewidth=1.2)
            axes.fill_between(x, y, step="post", color=FIRST, alpha=0.12)
            axes.set_xlabel("seconds")
            axes.set_ylim(bottom=0)
    figure.savefig(path)


def draw_sweep_png(path: Path, title: str, runs: Sequence[dict[str, Any]]) -> None:
    """Write a chart of latencies and of goodput against the request rate to ``path``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=130, layout="constrained")
    figure.suptitle(title)
    rates = [run["request_rate"] for run in runs]
    for place, (key, name) in enumerate(
        (("ttft_ms", "time to first token, ms"), ("tpot_ms", "time per token, ms")), 1
    ):
        axes = figure.add_subplot(1, 3, place)
        for rank, color in (("p50", FIRST), ("p99", SECOND)):
            axes.plot(
                rates,
                [(run[key] or {}).get(rank, np.nan) for run in runs],
                "o-",
                color=color,
                label=rank,
            )
        axes.set_title(name, fontsize=11, loc="left")
        axes.legend(frameon=False)
    axes = figure.add_subplot(1, 3, 3)
    axes.plot(rates, [run["requests_per_s"] for run in runs], "o-", color=SOFT, label="answered")
    if all("goodput" in run for run in runs):
        good = [run["goodput"]["requests_per_s"] for run in runs]
        axes.plot(rates, good, "o-", color=FIRST, label="good")
    axes.set_title("requests a second", fontsize=11, loc="left")
    axes.legend(frameon=False)
    for axes in figure.axes:
        axes.set_xlabel("requests sent a second")
        axes.grid(visible=True, alpha=0.25)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def draw_terminal(
    outcomes: Sequence[Outcome], write: Callable[[str], None], width: int = 100
) -> None:
    """The four charts below one another, as text."""
    import plotext

    for name, (x, y) in _series(outcomes).items():
        if not x:
            continue
        figure = plotext.figure
        figure.clear()
        figure.theme("clear")
        figure.plot_size(width, 14)
        signal = figure.signal(x, y)
        signal.lines()
        figure.draw(signal)
        unit = "ms" if name.startswith("time") else "s"
        figure.title(f"{name} ({unit})")
        write(figure.build().string(True))
