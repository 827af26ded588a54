"""The cache finds what was compiled from the same facts, and says which fact changed."""

import json
import shutil
from pathlib import Path

import pytest

from graphopt.cache import ArtifactCache, cache_folder, checkpoint_factors, key_of
from graphopt.errors import MachineError


def put(cache: ArtifactCache, factors: dict[str, str], nbytes: int = 10) -> Path:
    path = cache.path_for(factors)
    path.mkdir(parents=True)
    manifest = {"factors": factors, "files": {"plan.json": {"bytes": nbytes}}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GRAPHOPT_CACHE", raising=False)
    assert cache_folder() == tmp_path / "graphopt"
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_key_depends_on_every_factor_and_not_on_order() -> None:
    assert key_of({"a": "1", "b": "2"}) == key_of({"b": "2", "a": "1"})
    assert len({key_of({"a": "1"}), key_of({"a": "2"}), key_of({"b": "1"})}) == 3


def test_checkpoint_factors_see_every_change(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"12345678")
    first = checkpoint_factors(tmp_path)
    assert checkpoint_factors(tmp_path) == first
    (tmp_path / "config.json").write_text("{ }")
    second = checkpoint_factors(tmp_path)
    assert second["files"] != first["files"]
    assert second["weights"] == first["weights"]
    weights.write_bytes(b"123456789")
    assert checkpoint_factors(tmp_path)["weights"] != first["weights"]


def test_a_miss_names_the_factor_that_changed(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    wanted = {"checkpoint": "/m/tiny", "dtype": "float32", "torch": "2.13"}
    assert cache.why_miss(wanted) == ("nothing is cached",)
    put(cache, {"checkpoint": "/m/other", "dtype": "bfloat16", "torch": "2.11"})
    put(cache, wanted | {"dtype": "bfloat16"})
    assert cache.why_miss(wanted) == ("dtype: cached bfloat16, now float32",)


def test_entries_and_clear(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    path = put(cache, {"checkpoint": "/m/tiny"}, nbytes=7)
    (cache.folder / "broken.gopt").mkdir()
    assert [(entry.path, entry.nbytes) for entry in cache.entries()] == [(path, 7)]
    assert path.name.startswith("tiny-")
    assert cache.clear() == 7
    assert list(cache.entries()) == []


def test_factors_that_are_none_are_left_out(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    path = put(cache, {"checkpoint": "/m/tiny"})
    (path / "manifest.json").write_text('{"factors": 5, "files": {}}')
    assert list(cache.entries()) == []
    (path / "manifest.json").write_text("[" * 200_000)
    assert list(cache.entries()) == []


def test_what_cannot_be_removed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ArtifactCache(tmp_path)
    assert cache.clear() == 0
    put(cache, {"checkpoint": "/m/tiny"})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/m")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(MachineError, match="could not be emptied"):
        cache.clear()
