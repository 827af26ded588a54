"""Which Python is taken, and what is said when there is none. Interpreters are scripts here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import bootstrap

ROOT = Path(bootstrap.ROOT)


def fake_python(path: Path, version: str) -> str:
    """A script that answers as an interpreter of that version would; an empty version fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n" if version else "#!/bin/sh\nexit 127\n")
    path.chmod(0o755)
    return str(path)


def test_version_of(tmp_path: Path) -> None:
    assert bootstrap.version_of(sys.executable) == sys.version_info[:2]
    assert bootstrap.version_of(fake_python(tmp_path / "new", "3 14")) == (3, 14)
    assert bootstrap.version_of(fake_python(tmp_path / "shim", "")) is None
    assert bootstrap.version_of(str(tmp_path / "missing")) is None


def test_search_takes_each_version_once_and_in_order(tmp_path: Path) -> None:
    old = fake_python(tmp_path / "old", "3 9")
    first = fake_python(tmp_path / "first", "3 12")
    second = fake_python(tmp_path / "second", "3 12")
    third = fake_python(tmp_path / "third", "3 11")
    two = fake_python(tmp_path / "two", "2 11")
    found, seen = bootstrap.search([old, first, second, third, two, "/none"], range(11, 100))
    assert found == [first, third]
    assert seen[0] == f"{old} (3.9)"
    assert len(seen) == 5


def test_pyenv_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = fake_python(tmp_path / "versions" / "3.12.1" / "bin" / "python3.12", "3 12")
    fake_python(tmp_path / "versions" / "3.1.0" / "bin" / "python3.1", "3 1")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert bootstrap.built_by_pyenv(12) == [built]
    assert built in bootstrap.candidates("oldest")
    assert built in bootstrap.candidates("main")


def test_a_named_python_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = fake_python(tmp_path / "mine", "3 13")
    monkeypatch.setenv("PYTHON", named)
    assert bootstrap.choose("main") == [named]


@pytest.mark.parametrize(
    ("environment", "variable", "version", "said"),
    [
        ("main", "PYTHON", "3 10", ["Python 3.11 or newer", "mine (3.10)", "make PYTHON=/path"]),
        ("main", "PYTHON", "", ["mine, which does not run"]),
        ("oldest", "PYTHON312", "3 11", ["Python 3.12\n", "mine (3.11)", "make PYTHON312=/path"]),
    ],
)
def test_a_wrong_python_is_named(
    environment: str,
    variable: str,
    version: str,
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, fake_python(tmp_path / "mine", version))
    with pytest.raises(SystemExit) as stop:
        bootstrap.choose(environment)
    assert stop.value.code == 9
    message = capsys.readouterr().err
    for words in said:
        assert words in message


def test_a_machine_without_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = fake_python(tmp_path / "python3", "3 8")
    monkeypatch.setattr(sys, "executable", old)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.delenv("PYTHON", raising=False)
    with pytest.raises(SystemExit):
        bootstrap.choose("main")
    assert f"got      {old} (3.8)" in capsys.readouterr().err


def test_ready_only_with_the_right_stamp_and_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools" / "setup").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    part = tmp_path / "tools" / "setup" / "part.py"
    part.write_text("x = 1\n")
    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    monkeypatch.delenv("PYTHON", raising=False)
    assert not bootstrap.is_ready("main")
    fake_python(tmp_path / ".venv" / "bin" / "python", "3 12")
    stamp = tmp_path / ".venv" / bootstrap.STAMP
    stamp.write_text(bootstrap.fingerprint() + "\n")
    assert bootstrap.is_ready("main")
    assert not bootstrap.is_ready("oldest")

    monkeypatch.setenv("PYTHON", fake_python(tmp_path / "other", "3 13"))
    assert not bootstrap.is_ready("main")
    monkeypatch.setenv("PYTHON", fake_python(tmp_path / "same", "3 12"))
    assert bootstrap.is_ready("main")

    part.write_text("x = 2\n")
    assert not bootstrap.is_ready("main")
    part.write_text("x = 1\n")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert not bootstrap.is_ready("main")


def test_a_moved_checkout_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bootstrap.fingerprint()
    monkeypatch.setattr(bootstrap, "__file__", str(ROOT / "tools" / "bootstrap.py"))
    for name in ("pyproject.toml", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    assert bootstrap.fingerprint() != before


def test_usage_is_said() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "bootstrap.py"), "--environment", "other"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    assert done.returncode == 1
    assert "usage:" in done.stderr


def test_the_syntax_is_that_of_an_old_python() -> None:
    """So that the sentence about a wrong Python is what the user sees, and no SyntaxError."""
    import ast

    text = (ROOT / "tools" / "bootstrap.py").read_text()
    ast.parse(text, feature_version=(3, 6))
    assert "annotations" not in text  # `from __future__ import annotations` is of Python 3.7
    assert ":=" not in text
