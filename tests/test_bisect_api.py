"""A wrong pass of the real pipeline is found in a checkpoint and in an artifact, and seen again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from graphopt import api, bisect_api
from graphopt.errors import CompileError, UsageError
from graphopt.passes import pipeline as pipeline_module
from graphopt.passes.manager import Pass
from graphopt.passes.rules import RulePass
from tests.checkpoints import save_tiny
from tests.passes import wrong


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), num_hidden_layers=2)


@pytest.fixture
def bad_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms lose their epsilon after the second pass."""
    right = pipeline_module.decoder_pipeline

    def decoder_pipeline(scalars: Mapping[str, float | int] | None = None) -> tuple[Pass, ...]:
        passes = right(scalars)
        return (*passes[:2], RulePass("bad", [wrong.LostEpsilon()]), *passes[2:])

    monkeypatch.setattr(pipeline_module, "decoder_pipeline", decoder_pipeline)


def test_a_wrong_pass_is_refused_with_its_numbers(checkpoint: Path, bad_pipeline: None) -> None:
    with pytest.raises(CompileError, match="pass bad changed the numbers"):
        bisect_api.verify_passes(checkpoint, dtype="bfloat16")


def test_right_passes_are_checked_one_by_one(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = bisect_api.verify_passes(checkpoint, dtype="float32", disabled_passes=["fuse-rows"])
    assert found.subject.startswith("the model's own graph, 2 layers, f32")
    assert "raise-rms-norm" in {check.name for check in found.checks}
    assert all(one.agrees for check in found.checks for one in check.comparisons)
    monkeypatch.setattr(bisect_api, "SMALL_BYTES", 0)
    twin = bisect_api.verify_passes(checkpoint, pass_fuel=1)
    assert twin.subject.startswith("a twin")
    assert len(twin.checks) <= 1
    with pytest.raises(UsageError, match="no such pass"):
        bisect_api.verify_passes(checkpoint, disabled_passes=["nothing"])


def test_the_rewrite_is_found_and_seen_again(
    checkpoint: Path, bad_pipeline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "repro"
    found = bisect_api.bisect_checkpoint(checkpoint, folder)
    assert not found.is_right
    assert found.culprit is not None
    assert found.culprit.startswith("pass bad, rewrite ")
    assert "lost-epsilon at %" in found.culprit
    assert found.nodes <= 2
    assert found.command == f"graphopt bisect {folder}"
    assert found.command in (folder / "README.md").read_text()
    again = bisect_api.bisect_repro(folder)
    assert (again.culprit, again.kind) == (found.culprit, "disagrees")
    assert again.to_json()["right"] is False
    monkeypatch.undo()
    with pytest.raises(UsageError, match="no such pass"):  # it is gone from the pipeline
        bisect_api.bisect_repro(folder)


def test_an_artifact_leads_to_its_checkpoint(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gopt"
    api.compile_checkpoint(checkpoint, path, dtype="float32", disabled_passes=["raise-glu"])
    monkeypatch.chdir(tmp_path)
    found = bisect_api.bisect_artifact(path)
    assert found.is_right
    assert found.plan is not None
    assert found.plan.steps
    moved = checkpoint.rename(tmp_path / "moved")
    try:
        with pytest.raises(UsageError, match="is not there") as caught:
            bisect_api.bisect_artifact(path)
        assert "--reference" in str(caught.value.next)
        assert bisect_api.bisect_artifact(path, reference=moved).is_right
    finally:
        moved.rename(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 10**9])
def test_the_plan_comes_last(
    checkpoint: Path, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bisect_api, "SMALL_BYTES", limit)
    found = bisect_api.bisect_checkpoint(checkpoint, tmp_path / "none", max_model_len=64)
    assert found.is_right
    assert found.plan is not None
    assert found.plan.agrees
    assert not (tmp_path / "none").exists()


def test_other_peoples_folders_are_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not a repro"):
        bisect_api.bisect_checkpoint(checkpoint, tmp_path)
