"""The command that tunes: its table, its options, and its refusal without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from graphopt import tune_api
from graphopt.errors import MachineError
from graphopt.tune_api import Timing, Tuning

Run = Callable[..., Result]
SIZES = {"T": 16, "S": 16, "R": 16, "P": 8}
FOUND = Tuning(
    "NVIDIA H200",
    Path("tuned/nvidia_h200.json"),
    (
        Timing("norm_1", "T<=16", SIZES, 6, 3.25, 4.0, 3.5, 1.5, "BLOCK=64, 8 warps, 2 stages"),
        Timing("route_2", "any", SIZES, 0, None, None, None, None, "nothing says which integers"),
    ),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    given: dict[str, Any] = {}

    def tune(path: str, **options: Any) -> Tuning:
        given.update(path=path, **options)
        return FOUND

    monkeypatch.setattr(tune_api, "tune_artifact", tune)
    return given


def test_a_row_for_each_bucket(run: Run, asked: dict[str, Any]) -> None:
    lines = run("tune", "m.gopt", "--only", "norm", "-o", "here").stdout.splitlines()
    assert (asked["path"], asked["only"], asked["folder"]) == ("m.gopt", "norm", "here")
    assert lines[0].split()[-4:] == ["pick", "PyTorch", "least", "chosen"]
    times = ["3.25", "µs", "4.00", "µs", "3.50", "µs", "1.50", "µs"]
    assert lines[1].split()[:11] == ["norm_1", "T<=16", "6", *times]
    assert lines[2].split() == ["route_2", "any", "nothing", "says", "which", "integers"]
    assert any("nvidia_h200.json" in line for line in lines)


def test_json(run: Run, asked: dict[str, Any]) -> None:
    found = json.loads(run("tune", "m.gopt", "--json").stdout)
    assert (asked["only"], asked["folder"]) == ("", None)
    assert found["file"] == "tuned/nvidia_h200.json"
    assert found["timings"][0]["micros"] == 3.25
    assert found["timings"][1]["micros"] is None


def test_without_a_gpu_it_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def tune(path: str, **_: Any) -> Tuning:
        raise MachineError("this artifact runs on an NVIDIA GPU, and there is none here")

    monkeypatch.setattr(tune_api, "tune_artifact", tune)
    result = run("tune", "m.gopt")
    assert result.exit_code == 9
    assert "NVIDIA GPU" in result.stderr
