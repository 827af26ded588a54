"""The benchmark of HTTP's cost runs, on a few tokens, and its figures are of those tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import serve_overhead
from graphopt import api

DEMO = Path(__file__).parents[2] / "examples" / "demo-llama"


@pytest.mark.full
def test_both_sides_give_all_tokens(tmp_path: Path) -> None:
    artifact = tmp_path / "demo.gopt"
    api.compile_checkpoint(DEMO, artifact)
    options = argparse.Namespace(artifact=artifact, rounds=2, streams=3, tokens=8, seed=1)
    rows = serve_overhead.measure(options)
    # So few tokens may take less of the processor than its clock tells.
    assert all(row["min"] > 0 or "CPU" in name for name, row in rows.items())
    assert len(rows["server over library"]["samples"]) == 2
