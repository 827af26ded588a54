"""The cache finds what was compiled from the same facts, and says which fact changed."""

import json
import os
import shutil
from pathlib import Path

import pytest

import graphopt.cache as cache_module
from graphopt.cache import ArtifactCache, Change, cache_folder, checkpoint_factors, key_of
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
    (tmp_path / "notes.md").write_text("not of the model")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"12345678")
    first = checkpoint_factors(tmp_path)
    assert checkpoint_factors(tmp_path) == first
    assert first.keys() == {"checkpoint", "file config.json", "weights model.safetensors"}
    (tmp_path / "config.json").write_text("{ }")
    second = checkpoint_factors(tmp_path)
    assert {name for name in first if first[name] != second[name]} == {"file config.json"}
    os.utime(weights, ns=(0, 1))  # other bytes of the same size, by the look of it
    third = checkpoint_factors(tmp_path)
    assert {name for name in first if second[name] != third[name]} == {"weights model.safetensors"}
    assert third["weights model.safetensors"] == "8 bytes of 1970-01-01 00:00:00.000000001 UTC"


def test_a_miss_names_what_changed(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path)
    wanted = {"checkpoint": "/m/tiny", "dtype": "float32", "torch": "2.13"}
    assert cache.nearest(wanted) is None
    put(cache, {"checkpoint": "/m/other", "dtype": "float32", "torch": "2.13"})
    kept = put(cache, wanted | {"dtype": "bfloat16", "torch": "2.11"})
    found = cache.nearest(wanted)
    assert found is not None
    entry, changes = found
    assert entry.path == kept  # the same checkpoint, though more of it changed
    assert list(map(str, changes)) == [
        "dtype was bfloat16, is float32",
        "torch was 2.11, is 2.13",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change("file config.json", "a", "b"), "config.json changed"),
        (Change("file chat.jinja", None, "b"), "chat.jinja was added"),
        (Change("file chat.jinja", "a", None), "chat.jinja was removed"),
        (Change("weights m.safetensors", "1", "2"), "weight file m.safetensors changed: it was 1,"),
        (Change("weights m.safetensors", "1", None), "weight file m.safetensors was removed"),
        (Change("source", "a", "b"), "the source code of the compiler changed"),
        (Change("checkpoint", "/a", "/b"), "the checkpoint was at /a, is at /b"),
        (Change("pass_fuel", "None", "3"), "pass_fuel was None, is 3"),
    ],
)
def test_changes_in_words(change: Change, words: str) -> None:
    assert str(change).startswith(words)


def test_the_compilers_own_source_is_a_factor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "graphopt"
    for room in ("ir", "frontend", "codegen/templates", "runtime", "cli"):
        (home / room).mkdir(parents=True)
    (tmp_path / "passes").mkdir()
    (home / "passes").symlink_to("../passes")  # as in a checkout
    monkeypatch.setattr(cache_module, "__file__", str(home / "cache.py"))
    seen = [cache_module.source_factor()]
    for name in ("plan.py", "ir/graph.py", "passes/a.py", "codegen/templates/k.jinja"):
        (home / name).write_text("x")
        seen.append(cache_module.source_factor())
    assert len(set(seen)) == 5
    for name in ("runtime/engine.py", "cli/main.py"):
        (home / name).write_text("x")
        assert cache_module.source_factor() == seen[-1]


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
