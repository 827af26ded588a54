"""Bisect: what was found, in words and as JSON, and exit codes that tell it apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from graphopt import bisect_api
from graphopt.bisect_api import BisectReport
from graphopt.runtime.executors.verification import Row, VerifyReport

Run = Callable[..., Result]
LOGITS = Row("logits", "", 3e-7, 2e-7, 1e-5)
WRONG = Row("step 3 linear", "model.layers.0", 2e-3, 2e-7, 1e-5)
PLACE = "pass bad, rewrite 4: lost-epsilon at %7"
FOUND = BisectReport("a twin", PLACE, "disagrees", "row 1 of %9", Path("r"), 2, "graphopt bisect r")
RIGHT = BisectReport("a twin", None, plan=VerifyReport("float32", 4, (), LOGITS, None))
BAD_PLAN = BisectReport("a twin", None, plan=VerifyReport("float32", 4, (WRONG,), LOGITS, None))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the searches answer, and what they were asked."""
    state: dict[str, Any] = {"report": FOUND, "calls": []}

    def answer(name: str) -> Callable[..., BisectReport]:
        def call(*args: object, **options: object) -> BisectReport:
            options.pop("progress", None)
            state["calls"].append((name, args, options))
            report: BisectReport = state["report"]
            return report

        return call

    for name in ("bisect_checkpoint", "bisect_artifact", "bisect_repro"):
        monkeypatch.setattr(bisect_api, name, answer(name))
    return state


def test_a_culprit(run: Run, told: dict[str, Any]) -> None:
    result = run("bisect", "c", "-o", "r", "--dtype", "float32", "--disable-pass", "x")
    assert result.exit_code == 8
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines == {
        "searched": "a twin",
        "culprit": PLACE,
        "disagrees": "row 1 of %9",
        "repro": "r, 2 nodes",
        "again": "graphopt bisect r",
    }
    options = {"dtype": "float32", "disabled_passes": ("x",)}
    assert told["calls"] == [("bisect_checkpoint", ("c", "r"), options)]


def test_a_pass_that_fails_has_another_exit_code(run: Run, told: dict[str, Any]) -> None:
    told["report"] = BisectReport("a twin", PLACE, "fails", "ValueError")
    assert run("bisect", "c").exit_code == 5


def test_right_passes_and_the_plan(run: Run, told: dict[str, Any]) -> None:
    told["report"] = RIGHT
    result = run("bisect", "c")
    assert result.exit_code == 0
    assert "agrees: 1 of 1 comparisons" in result.stdout
    told["report"] = BAD_PLAN
    result = run("bisect", "c")
    assert result.exit_code == 8
    assert "step 3 linear model.layers.0: relative error 2.00e-03" in result.stdout


def test_json(run: Run, told: dict[str, Any]) -> None:
    result = run("bisect", "c", "--json")
    assert result.exit_code == 8
    found = json.loads(result.stdout)
    assert (found["right"], found["culprit"], found["nodes"]) == (False, PLACE, 2)
    told["report"] = RIGHT
    assert json.loads(run("bisect", "c", "--json").stdout)["plan"]["agrees"] is True


def test_a_repro_is_told_from_a_checkpoint(run: Run, told: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "repro.json").write_text("{}")
    run("bisect", tmp_path)
    assert told["calls"] == [("bisect_repro", (str(tmp_path),), {})]


def test_verify_bisects_an_artifact(run: Run, told: dict[str, Any]) -> None:
    result = run("verify", "--bisect", "m.gopt", "--reference", "c", "--repro", "r")
    assert result.exit_code == 8
    assert PLACE in result.stdout
    options = {"reference": "c", "output": "r"}
    assert told["calls"] == [("bisect_artifact", ("m.gopt",), options)]
