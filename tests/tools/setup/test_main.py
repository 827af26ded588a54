"""The order of a set-up: checks first, then one interpreter after the other, the stamp last."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.setup import __main__ as command
from tools.setup.environment import RECIPES, Environment
from tools.setup.machine import Machine
from tools.setup.pip import Pip
from tools.setup.problem import Problem, SetupError

GOOD = Machine("Linux", False, 2, 10**11, 10**10, "g++ 12")


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Records each interpreter that is tried; those called `no-venv` and `no-disk` fail."""
    calls: list[str] = []

    def install(environment: Environment, machine: Machine, interpreter: str) -> None:
        calls.append(interpreter)
        environment.folder.mkdir(exist_ok=True)
        if interpreter.startswith("no-"):
            problem = Problem(f"{interpreter}!", got="", expected="", next="")
            raise SetupError(problem, of_this_python=interpreter == "no-venv")

    monkeypatch.setattr(command, "install", install)
    monkeypatch.setattr(command.browser, "provide", lambda: None)
    monkeypatch.setattr(command, "ROOT", str(tmp_path))
    monkeypatch.setattr(command, "is_ready", lambda name: False)
    return calls


def run(monkeypatch: pytest.MonkeyPatch, machine: Machine, *interpreters: str) -> int:
    monkeypatch.setattr(command, "look", lambda root: machine)
    return command.main("main", interpreters)


def test_the_first_that_works_is_taken(
    tried: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(monkeypatch, GOOD, "no-venv", "good", "better") == 0
    assert tried == ["no-venv", "good"]
    assert (tmp_path / ".venv" / "graphopt-setup.txt").exists()


def test_a_problem_of_the_machine_ends_it(
    tried: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(monkeypatch, GOOD, "no-disk", "good") == 9
    assert tried == ["no-disk"]
    assert not (tmp_path / ".venv" / "graphopt-setup.txt").exists()


def test_the_last_problem_is_told(
    tried: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, GOOD, "no-venv") == 9
    assert "setup: no-venv!" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (replace(GOOD, free_disk_bytes=10**8), "too little disk"),
        (replace(GOOD, free_memory_bytes=10**8), "too little memory"),
        (replace(GOOD, system="Windows"), "Linux and macOS only"),
    ],
)
def test_nothing_is_tried_on_a_machine_that_lacks_something(
    machine: Machine,
    said: str,
    tried: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, machine, "good") == 9
    assert tried == []
    assert said in capsys.readouterr().err


def test_a_missing_compiler_is_a_warning(
    tried: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, replace(GOOD, compiler=None), "good") == 0
    assert "setup: warning: there is no C++ compiler" in capsys.readouterr().err


def test_a_missing_browser_is_a_warning(
    tried: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = Problem("there is no browser", got="", expected="", next="install one")
    monkeypatch.setattr(command.browser, "provide", lambda: problem)
    assert run(monkeypatch, GOOD, "good") == 0
    assert "setup: warning: there is no browser" in capsys.readouterr().err


def test_an_interrupted_set_up_says_how_to_go_on(
    tried: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(environment: Environment, machine: Machine, interpreter: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "install", interrupt)
    assert run(monkeypatch, GOOD, "good") == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_a_ready_environment_is_left_alone(
    tried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another set-up finished while this one waited for it."""
    monkeypatch.setattr(command, "is_ready", lambda name: True)
    assert run(monkeypatch, GOOD, "good") == 0
    assert tried == []


def test_two_set_ups_wait_for_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import fcntl, os, sys, time; h = os.open(sys.argv[1], os.O_RDONLY); "
        "fcntl.flock(h, fcntl.LOCK_EX); print('held', flush=True); time.sleep(0.5)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with command.alone(tmp_path):
        assert holder.wait(timeout=10) == 0
    assert "waiting for it" in capsys.readouterr().out
    holder.stdout.close()


def test_clients_get_their_programs_and_neither_pytorch_nor_graphopt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Environment, "make", lambda self, interpreter: None)
    monkeypatch.setattr(Pip, "install", lambda self, *names: asked.extend(names))
    command.install(Environment(tmp_path, RECIPES["clients"]), GOOD, sys.executable)
    assert asked == list(RECIPES["clients"].pins)
    assert any(name.startswith("openai") for name in asked)
