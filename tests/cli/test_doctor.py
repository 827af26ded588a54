"""Doctor: a table or JSON, and exit code 9 when something needed is missing."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from graphopt import doctor
from graphopt.doctor import Finding, Status

Run = Callable[..., Result]
FINE = Finding("python", Status.OK, "3.12 at /usr/bin/python")
SLOW = Finding("cores", Status.WARN, "1 usable", "slow", "use more")
GONE = Finding("torch", Status.MISSING, "not installed", "needed", "pip install torch", True)


def show(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(
        doctor, "default_probes", lambda *, measure: [("all", lambda: list(findings))]
    )


def test_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, FINE, SLOW)
    result = run("doctor")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["status", "found", "what", "follows"]
    assert lines[2] == ["cores", "warn", "1", "usable", "slow;", "use", "more"]


def test_something_needed_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, FINE, GONE)
    result = run("doctor")
    assert result.exit_code == 9
    assert "pip install torch" in result.stdout
    assert "got      torch" in result.stderr


def test_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch, GONE)
    result = run("doctor", "--json")
    assert result.exit_code == 9
    assert json.loads(result.stdout) == {
        "works": False,
        "findings": [
            {
                "name": "torch",
                "status": "missing",
                "found": "not installed",
                "means": "needed",
                "todo": "pip install torch",
                "required": True,
            }
        ],
    }


def test_here(run: Run) -> None:
    result = run("doctor", "--no-measure", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["works"] is True
    assert "memory bandwidth" not in {row["name"] for row in found["findings"]}
