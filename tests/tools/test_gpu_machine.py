"""The list of what to run on a GPU machine: commands that exist, in order, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from benchmarks.gpu import e2e
from benchmarks.gpu.__main__ import options_of
from graphopt.cli.main import cli
from tools.gpu_machine import STEPS, Step, command_of, listed, main, missing, run_here

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_commands_are_those_that_there_are(step: Step) -> None:
    command = command_of(step, Path("results"))
    assert command[:2] == [sys.executable, "-m"]
    assert step.minutes <= 10
    if command[3:5] == ["--suite", "e2e"]:
        of_models = e2e.options_of(command[5:])
        assert of_models.out.parent == Path("results")
        assert of_models.minutes < step.minutes
    elif command[2] == "benchmarks.gpu":
        options = options_of(command[3:])
        assert options.out.parent == Path("results")
        assert options.minutes < step.minutes + 1
    elif command[2] == "graphopt":
        assert command[3] in cli.list_commands(click.Context(cli))
        assert not [word for word in command if "OUT" in word]
    else:
        paths = [word for word in command[3:] if word.startswith("tests/")]
        assert paths
        assert all((ROOT / path).exists() for path in paths)


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == listed()
    assert [step.name for step in STEPS if f". {step.name} (" in shown] == [s.name for s in STEPS]


def test_what_is_missing() -> None:
    assert missing(Step("x", "", 1, "", ("torch", "no_such_module", "no_such.module"))) == [
        "no_such_module",
        "no_such.module",
    ]


def test_a_step_that_fails_ends_the_run(tmp_path: Path) -> None:
    ran: list[str] = []

    def run(command: Sequence[str], seconds: float) -> int:
        ran.append(command[2])
        return len(ran) - 1

    out = tmp_path / "out"
    assert main(["jit", "cases", "kernels", "--out", str(out)], run) == 1
    assert ran == ["benchmarks.gpu", "pytest"]
    assert out.is_dir()


def test_a_step_that_takes_too_long() -> None:
    assert run_here([sys.executable, "-c", "import time; time.sleep(30)"], 0.2) == 124
    assert run_here([sys.executable, "-c", "raise SystemExit(5)"], 30) == 5


def test_unknown_steps(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sing"])
    assert "no step sing" in capsys.readouterr().err
