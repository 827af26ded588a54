"""Rounding the demo checkpoint's weights costs no more than it may."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.perplexity import Score, recorded, score, table

TOKENS = 4096


@pytest.mark.full
def test_the_price_of_few_bits(tmp_path: Path) -> None:
    exact = score("bf16", TOKENS, tmp_path)
    eight, four = (score(name, TOKENS, tmp_path).perplexity for name in ("int8", "int4"))
    assert exact.tokens == TOKENS
    assert eight <= 1.01 * exact.perplexity
    assert four <= 1.08 * exact.perplexity
    assert four > 1.001 * exact.perplexity  # it was rounded


@pytest.mark.full
def test_the_price_of_few_bits_on_a_gpu(tmp_path: Path) -> None:
    """By the reference: it costs something, and no more than it may."""
    exact = score("bf16", 1024, tmp_path).perplexity
    most = {"fp8": 1.03, "fp8-tensor": 1.03, "w8a8": 1.01, "keys and values in fp8": 1.01}
    for name, times in most.items():
        found = score(name, 1024, tmp_path)
        assert found.tokens == 1024
        assert found.perplexity != exact
        assert found.perplexity <= times * exact, name


def test_the_table() -> None:
    rows = table({"bf16": Score(20.0, 7), "int8": Score(20.1, 7)})
    assert rows.row_count == 2
    assert list(rows.columns[2].cells) == ["+0.00 %", "+0.50 %"]
    assert math.isclose(recorded().perplexity, 35, rel_tol=0.01)
