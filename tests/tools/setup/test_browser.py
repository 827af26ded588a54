"""A browser is found, installed where that is possible, or missed in a paragraph."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.setup import browser


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of PATH, on a machine of root's."""
    monkeypatch.setenv("PATH", f"{tmp_path}")
    monkeypatch.delenv("GRAPHOPT_BROWSER", raising=False)
    monkeypatch.setattr(browser, "MACOS", tmp_path / "none")
    monkeypatch.setattr(browser.os, "geteuid", lambda: 0)
    return tmp_path


def test_the_usual_names(path: Path) -> None:
    assert browser.find() is None
    program(path, "google-chrome", "exit 0")
    assert browser.find() == str(path / "google-chrome")
    program(path, "chromium", "exit 0")
    assert browser.find() == str(path / "chromium")


def test_a_named_one_comes_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path, "chromium", "exit 0")
    program(path, "mine", "exit 0")
    monkeypatch.setenv("GRAPHOPT_BROWSER", "mine")
    assert browser.find() == str(path / "mine")
    monkeypatch.setenv("GRAPHOPT_BROWSER", "absent")
    assert browser.find() is None
    assert "absent" in str(browser.provide())


def test_macos(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path, "Chrome", "exit 0")
    monkeypatch.setattr(browser, "MACOS", path / "Chrome")
    assert browser.find() == str(path / "Chrome")


# An apt-get that knows Chromium, and writes down what it was asked.
LOG = 'echo "$@" >> "${0%/*}/log"'
INSTALLS = f"""{LOG}
case "$1" in
  install) printf '#!/bin/sh\\n' > "${{0%/*}}/chromium"; /bin/chmod +x "${{0%/*}}/chromium";;
esac
"""
# One that knows it after an update only.
NEEDS_UPDATE = f"""{LOG}
case "$1" in
  update) : > "${{0%/*}}/lists";;
  install) [ -e "${{0%/*}}/lists" ] || exit 100
    printf '#!/bin/sh\\n' > "${{0%/*}}/chromium"; /bin/chmod +x "${{0%/*}}/chromium";;
esac
"""


@pytest.mark.parametrize(
    ("apt", "asked"),
    [(INSTALLS, ["install"]), (NEEDS_UPDATE, ["install", "update", "install"])],
)
def test_it_is_installed_as_root(
    apt: str, asked: list[str], path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(path, "apt-get", apt)
    assert browser.provide() is None
    assert [line.split()[0] for line in (path / "log").read_text().splitlines()] == asked
    assert str(path / "chromium") in capsys.readouterr().out


def test_one_that_is_there_is_taken(path: Path) -> None:
    program(path, "apt-get", LOG)
    program(path, "chromium", "exit 0")
    assert browser.provide() is None
    assert not (path / "log").exists()


@pytest.mark.parametrize(("apt", "user"), [("exit 100", 0), (None, 0), (INSTALLS, 1000)])
def test_what_cannot_be_installed_is_a_problem(
    apt: str | None, user: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser.os, "geteuid", lambda: user)
    if apt is not None:
        program(path, "apt-get", apt)
    problem = browser.provide()
    assert problem is not None
    assert "apt install chromium" in str(problem)
    assert not (path / "chromium").exists()
