"""docs/cli.md says what the commands say."""

from __future__ import annotations

from pathlib import Path

from graphopt.cli.main import COMMANDS
from graphopt.cli.reference import render

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_the_page_is_current() -> None:
    found = PAGE.read_text(encoding="utf-8")
    assert found == render(), "run: python -m graphopt.cli.reference > docs/cli.md"


def test_the_page_has_every_command() -> None:
    for name in (*COMMANDS, "cache list", "cache path", "cache clear"):
        assert f"# graphopt {name}\n" in render()
    assert "`--dtype` `auto|bfloat16|float16|float32`" in render()
    assert "Default: 128." in render()
