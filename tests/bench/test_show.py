"""Words and tables about a run."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from graphopt.bench.goal import Goal
from graphopt.bench.load import Effort
from graphopt.bench.outcome import Outcome
from graphopt.bench.show import facts, sweep_table, times_table
from graphopt.bench.summary import summary

GOOD = Outcome(0.0, 0.0, 0.5, [0.1, 0.3], 1.0, 10, 3, 200)


def of(
    *outcomes: Outcome, effort: Effort | None = None, goal: Goal | None = None
) -> dict[str, Any]:
    return {"request_rate": 2.0, **summary(outcomes, effort or Effort(0.1, 1.0, [0.001]), 8, goal)}


def text(table: Table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120).print(table)
    return stream.getvalue()


def test_facts() -> None:
    run = of(GOOD, Outcome(status=429, error="full"), goal=Goal.parse(["ttft:600", "tpot:250"]))
    found = dict(facts(run))
    assert found["requests"] == "1 of 2 answered"
    assert found["failed"] == "1 with 429"
    assert found["first error"] == "full"
    assert found["goodput"] == "1.00 requests a second within ttft 600, tpot 250 ms, 50.0% of all"
    assert found["this client"].startswith("10% of a core, 12500 µs for an event, timers late")
    assert "beware" not in found
    assert "beware" in dict(facts(of(GOOD, effort=Effort(1.0, 1.0, []))))


def test_tables() -> None:
    shown = text(times_table(of(GOOD)))
    assert "time to first token" in shown
    assert "500.00" in shown
    assert "-" in text(times_table(of(Outcome(status=0, error="refused"))))
    shown = text(
        sweep_table([of(GOOD), {**of(GOOD, goal=Goal.parse(["e2e:1"])), "request_rate": None}])
    )
    assert "all at once" in shown
    assert "0.0%" in shown
