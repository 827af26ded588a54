"""Times of one request."""

from __future__ import annotations

import pytest

from graphopt.bench.outcome import Outcome


def test_time_per_token_is_that_after_the_first() -> None:
    one = Outcome(ttft_s=1.0, gaps_s=[0.2, 0.4], output_tokens=4)
    assert one.tpot_s == pytest.approx(0.2)  # three tokens in two texts
    assert Outcome(ttft_s=1.0, output_tokens=1).tpot_s is None
    assert Outcome(output_tokens=5).tpot_s is None


def test_failures_have_kinds() -> None:
    assert Outcome().ok
    assert Outcome(status=429, error="full").failure == "429"
    assert Outcome(status=0, error="refused").failure == "connection"
    assert Outcome(status=200, error="broke off").failure == "stream"
