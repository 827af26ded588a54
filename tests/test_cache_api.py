"""The cache says whether it has what is asked for, and what changed if it has not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from graphopt.api import compile_options, factors_of
from graphopt.artifact import write_artifact
from graphopt.cache import ArtifactCache
from graphopt.cache_api import explain_cache
from graphopt.errors import CheckpointError
from tests.test_artifact import contents


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"12345678")
    return folder


@pytest.fixture
def kept(checkpoint: Path) -> Path:
    """An artifact in the cache, as if compiled from the checkpoint in float32."""
    factors = factors_of(checkpoint, compile_options(dtype="float32"))
    path = ArtifactCache().path_for(factors)
    write_artifact(path, replace(contents(), factors=factors))
    return path


def test_nothing_is_cached(checkpoint: Path) -> None:
    told = explain_cache(checkpoint)
    assert (told.is_hit, told.nearest, told.changes) == (False, None, ())
    assert told.path.parent == ArtifactCache().folder
    with pytest.raises(CheckpointError):
        explain_cache(checkpoint / "absent")


def test_a_hit(checkpoint: Path, kept: Path) -> None:
    told = explain_cache(checkpoint, dtype="float32")
    assert told.is_hit
    assert told.path == told.nearest == kept


def test_options_and_files_that_changed(checkpoint: Path, kept: Path) -> None:
    (checkpoint / "config.json").write_text("{ }")
    (checkpoint / "chat_template.jinja").write_text("x")
    os.utime(checkpoint / "model.safetensors", ns=(1, 1))
    told = explain_cache(checkpoint, dtype="bfloat16", pass_fuel=3, disabled_passes=["b", "a"])
    assert (told.is_hit, told.nearest) == (False, kept)
    words = sorted(map(str, told.changes))
    assert words[:5] == [
        "chat_template.jinja was added",
        "config.json changed",
        "disabled_passes was , is a, b",
        "dtype was float32, is bfloat16",
        "pass_fuel was None, is 3",
    ]
    assert words[5].startswith("weight file model.safetensors changed: it was 8 bytes of 20")
    assert len(words) == 6


def test_damage_is_no_hit_and_no_change(checkpoint: Path, kept: Path) -> None:
    (kept / "plan.json").unlink()
    told = explain_cache(checkpoint, dtype="float32")
    assert (told.is_hit, told.nearest, told.changes) == (False, kept, ())
