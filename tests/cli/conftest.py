"""Runs commands in this process, against a stand-in for the API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from graphopt import api
from graphopt.cli.main import cli
from tests.cli.fake_api import FakeAPI

Run = Callable[..., Result]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAPI:
    stand_in = FakeAPI(tmp_path)
    for name in ("compile_reported", "open_artifact", "LLM", "verify_artifact"):
        monkeypatch.setattr(api, name, getattr(stand_in, name))
    return stand_in


@pytest.fixture
def run() -> Run:
    def run_words(*words: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli, [str(word) for word in words], input=stdin)

    return run_words
