"""Summaries against what was put in."""

from __future__ import annotations

import random

import numpy as np
import pytest

from graphopt.bench.goal import Goal
from graphopt.bench.load import Effort
from graphopt.bench.outcome import Outcome
from graphopt.bench.summary import detail, spread, summary, sustained_rate

EFFORT = Effort(1.0, 4.0, [0.001] * 10)


def good(sent_s: float, ttft_s: float = 0.5) -> Outcome:
    return Outcome(sent_s, 0.0, ttft_s, [0.1, 0.3], ttft_s + 0.5, 10, 3, 200)


def test_rates_are_over_the_time_from_first_to_last() -> None:
    found = summary([good(2.0), good(5.0)], EFFORT, 8)
    assert found["seconds"] == pytest.approx(4.0)
    assert (found["requests"], found["completed"], found["failed"]) == (2, 2, {})
    assert found["requests_per_s"] == pytest.approx(0.5)
    assert found["output_tokens_per_s"] == pytest.approx(1.5)
    assert found["total_tokens_per_s"] == pytest.approx(6.5)
    assert found["ttft_ms"]["p50"] == pytest.approx(500)
    assert found["tpot_ms"]["mean"] == pytest.approx(200)
    assert found["itl_ms"]["mean"] == pytest.approx(200)
    assert found["e2e_ms"]["max"] == pytest.approx(1000)
    assert "goodput" not in found


def test_failures_are_counted_by_kind_and_have_no_times() -> None:
    bad = [
        Outcome(status=429, error="full"), Outcome(status=429, error="full"),
        Outcome(status=0, error="refused"), Outcome(status=200, ttft_s=9.0, error="broke off"),
    ]  # fmt: skip
    found = summary([good(0.0), *bad], EFFORT, 4)
    assert found["failed"] == {"429": 2, "connection": 1, "stream": 1}
    assert found["errors"]["full"] == 2
    assert found["ttft_ms"]["max"] == pytest.approx(500)
    nothing = summary(bad, EFFORT, 0)
    assert nothing["ttft_ms"] is None
    assert nothing["client"]["cpu_us_per_event"] is None


def test_percentiles_are_numpys() -> None:
    rng = random.Random(0)
    values = [rng.expovariate(1) for _ in range(333)]
    found = spread(values)
    assert found is not None
    for p in (50, 90, 99):
        assert found[f"p{p}"] == pytest.approx(np.percentile(values, p) * 1000)
    assert spread([]) is None


def test_goodput_counts_what_was_fast_enough() -> None:
    outcomes = [good(0.0), good(1.0, 0.7), good(3.0), Outcome(status=503, error="gone")]
    found = summary(outcomes, EFFORT, 8, Goal.parse(["ttft:600"]))
    assert found["goodput"] == {
        "bounds_ms": {"ttft": 600.0}, "met": 2, "share": 0.5, "requests_per_s": pytest.approx(0.5),
    }  # fmt: skip


def test_the_client_says_when_it_is_the_limit() -> None:
    assert not summary([good(0.0)], EFFORT, 8)["client"]["limits"]
    assert summary([good(0.0)], Effort(3.9, 4.0, [0.001]), 8)["client"]["limits"]
    assert summary([good(0.0)], Effort(1.0, 4.0, [0.05] * 9), 8)["client"]["limits"]
    assert summary([good(0.0)], EFFORT, 8)["client"]["cpu_us_per_event"] == pytest.approx(125000)


def test_the_sustained_rate_is_the_highest_that_was_good_enough() -> None:
    runs = [
        {"request_rate": rate, "goodput": {"share": share}}
        for rate, share in ((1.0, 1.0), (2.0, 0.95), (4.0, 0.9), (8.0, 0.3), (None, 1.0))
    ]
    assert sustained_rate(runs, 0.9) == 4.0
    assert sustained_rate(runs[3:], 0.9) is None
    assert sustained_rate([{"request_rate": 1.0}], 0.9) is None


def test_no_requests() -> None:
    assert summary([], Effort(0.0, 0.0, []), 0)["requests"] == 0


def test_details_are_plain_data() -> None:
    assert detail([good(1.0)])[0]["gaps_s"] == [0.1, 0.3]
