"""Compiling in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphopt.artifact import is_artifact
from graphopt.cli import apart
from graphopt.cli.apart import compile_apart
from graphopt.errors import CheckpointError, CompileError, UsageError
from tests.checkpoints import save_tiny


@pytest.mark.full
def test_a_checkpoint_becomes_an_artifact_and_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    folder = save_tiny(tmp_path / "tiny", num_hidden_layers=1)
    path = compile_apart(str(folder), {"max_model_len": 64})
    assert is_artifact(path)
    assert compile_apart(str(folder), {"max_model_len": 64}) == path


def test_what_is_wrong_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        compile_apart(str(tmp_path), {})
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UsageError):
        compile_apart(str(tmp_path), {"dtype": "nonsense"})


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "__name__", "graphopt.no_such_module")
    with pytest.raises(CompileError, match="died"):
        compile_apart("model", {})


def test_it_answers_in_the_process_that_asked(tmp_path: Path) -> None:
    """PyTorch stays where the compiler is."""
    code = (
        "import sys; from graphopt.cli.apart import compile_apart\n"
        "try: compile_apart(sys.argv[1], {})\n"
        "except Exception as error: print(type(error).__name__, 'torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert found.stdout.split() == ["CheckpointError", "False"]
