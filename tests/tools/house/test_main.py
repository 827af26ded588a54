"""The command prints every finding and says by its exit code whether there was one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.house.__main__ import main


def test_findings_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "a.py").write_text('"""A pass."""\n\nassert True\n')
    assert main(tmp_path) == 1
    assert "no forbidden statements: passes/a.py:3: assert" in capsys.readouterr().out


def test_an_orderly_checkout_prints_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "__init__.py").write_text('"""Passes."""\n')
    assert main(tmp_path) == 0
    assert capsys.readouterr().out == ""
