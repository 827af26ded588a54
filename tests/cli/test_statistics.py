"""Rates are computed from what they should be."""

from __future__ import annotations

import pytest

from graphopt.cli.statistics import Statistics


def test_one_stream_counts_after_the_first_token() -> None:
    statistics = Statistics(1, None, 11, 0.5, 2.5)
    assert statistics.tokens_per_s == pytest.approx(5.0)
    assert str(statistics) == "11 tokens in 2.50 s, 5.0 tokens/s, first token after 500 ms"


def test_a_batch_counts_everything() -> None:
    statistics = Statistics(4, 30, 100, 0.5, 2.0, cached_tokens=16)
    assert statistics.tokens_per_s == pytest.approx(50.0)
    assert str(statistics) == (
        "30 prompt tokens (16 found in the cache), 4 samples, 100 tokens in 2.00 s, 50.0 tokens/s, "
        "first token after 500 ms"
    )


@pytest.mark.parametrize("tokens", [0, 1])
def test_too_few_tokens_have_no_rate(tokens: int) -> None:
    statistics = Statistics(1, None, tokens, 0.5 if tokens else None, 0.5)
    assert statistics.tokens_per_s is None
    assert "tokens/s" not in str(statistics)
    assert statistics.to_json()["tokens_per_s"] is None
