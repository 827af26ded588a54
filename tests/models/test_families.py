"""The sweep over all causal-LM types: enough agree, none is wrong, none crashes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.families import ENOUGH, all_names, check_family

ROOT = Path(__file__).resolve().parents[2]


def sweep(*arguments: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.families", "--json", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, json.loads(done.stdout)


@pytest.mark.full
def test_all_types_agree_or_are_refused() -> None:
    code, found = sweep("-j", "2")
    summary = found["summary"]
    assert isinstance(summary, dict)
    assert summary["wrong"] == summary["crash"] == 0, found
    assert summary["agree"] >= ENOUGH
    assert sum(summary.values()) == len(all_names())
    assert code == 0


@pytest.mark.parametrize(
    ("name", "verdict", "reason"),
    [
        ("gpt2", "agree", ""),
        ("mamba", "refused", "recurrent or hybrid"),
        ("bart", "refused", "encoder-decoder"),
        ("bert", "refused", "not causal"),
    ],
)
def test_single_types(name: str, verdict: str, reason: str) -> None:
    row = check_family(name)
    assert row.verdict == verdict
    assert reason in row.detail
    assert row.torch_steps == (0 if verdict == "agree" else None)
