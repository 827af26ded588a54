"""When an environment is kept, when it is made anew, and what a missing venv looks like."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import bootstrap
from tools.setup import environment
from tools.setup.environment import RECIPES, Environment
from tools.setup.problem import SetupError


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the environments that would be made, instead of making them."""
    calls: list[str] = []

    def record(interpreter: str, folder: Path) -> None:
        calls.append(interpreter)

    monkeypatch.setattr(environment, "run_venv", record)
    monkeypatch.delenv("PYTHON", raising=False)
    return calls


THIS = "{} {}".format(*sys.version_info[:2])


def standing(root: Path, version: str = THIS) -> Environment:
    """An environment that looks as if it worked, with a Python of some version."""
    env = Environment(root, RECIPES["main"])
    binaries = env.folder / "bin"
    binaries.mkdir(parents=True)
    (env.folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    env.python.write_text(f"#!/bin/sh\necho {version}\n")
    env.python.chmod(0o755)
    (binaries / "pip").write_text(f"#!{env.python}\n")
    return env


def test_a_working_environment_is_kept(tmp_path: Path, made: list[str]) -> None:
    standing(tmp_path).make(sys.executable)
    assert made == []


def test_a_missing_one_is_made(tmp_path: Path, made: list[str]) -> None:
    Environment(tmp_path, RECIPES["main"]).make(sys.executable)
    assert made == [sys.executable]


@pytest.mark.parametrize("damage", ["no pip", "moved", "old", "broken"])
def test_a_damaged_one_is_made_anew(damage: str, tmp_path: Path, made: list[str]) -> None:
    env = standing(tmp_path, "3 9" if damage == "old" else THIS)
    if damage == "no pip":
        (env.folder / "bin" / "pip").unlink()
    elif damage == "moved":
        (env.folder / "bin" / "pip").write_text("#!/elsewhere/.venv/bin/python\n")
    elif damage == "broken":
        env.python.write_text("#!/bin/sh\nexit 1\n")
    env.make(sys.executable)
    assert made == [sys.executable]


def test_another_python_makes_another_environment(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = standing(tmp_path, "3 99")
    env.finish()
    env.make(sys.executable)
    assert made == []
    monkeypatch.setenv("PYTHON", sys.executable)
    env.make(sys.executable)
    assert made == [sys.executable]


def test_one_that_was_never_ready_takes_the_python_that_is_tried(
    tmp_path: Path, made: list[str]
) -> None:
    env = standing(tmp_path, "3 99")
    env.make(sys.executable)
    assert made == [sys.executable]
    env.finish()
    env.give_up()
    env.make(sys.executable)
    assert made == [sys.executable] * 2


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path, made: list[str]) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "precious").write_text("x")
    with pytest.raises(SetupError, match="is not a virtual environment"):
        Environment(tmp_path, RECIPES["main"]).make(sys.executable)
    assert made == []


def test_a_python_without_venv(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(
        '#!/bin/sh\ncase "$*" in *version_info*) echo 3 12;; '
        "*) echo \"ModuleNotFoundError: No module named 'ensurepip'\" >&2; exit 1;; esac\n"
    )
    python.chmod(0o755)
    with pytest.raises(SetupError) as error:
        environment.require_venv(str(python))
    assert error.value.of_this_python
    message = str(error.value)
    assert "No module named 'ensurepip'" in message
    assert "apt install python3-venv (or python3.12-venv)" in message


def test_the_stamp_makes_it_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = standing(tmp_path)
    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.delenv("PYTHON", raising=False)
    assert not bootstrap.is_ready("main")
    env.scratch.mkdir()
    (env.scratch / "wheel").write_text("x" * 1000)
    assert env.size_bytes() > 1000
    env.finish()
    assert not env.scratch.exists()
    assert bootstrap.is_ready("main")
