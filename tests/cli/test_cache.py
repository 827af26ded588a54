"""Cache: what is kept, where, and how to be rid of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from graphopt import cache_api
from graphopt.artifact import write_artifact
from graphopt.cache import ArtifactCache, Change
from graphopt.cache_api import Explanation
from tests.test_artifact import contents

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def kept() -> Path:
    path = ArtifactCache().path_for({"checkpoint": "tiny"})
    write_artifact(path, contents())
    return path


def test_path(run: Run, folder: Path) -> None:
    assert run("cache", "path").stdout == f"{folder / 'artifacts'}\n"
    assert json.loads(run("cache", "path", "--json").stdout) == {"path": str(folder / "artifacts")}


def test_list(run: Run, kept: Path) -> None:
    lines = run("cache", "list").stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(str(kept))
    assert "bfloat16" in lines[1]
    [row] = json.loads(run("cache", "list", "--json").stdout)["artifacts"]
    assert row["path"] == str(kept)
    assert row["factors"] == {"dtype": "bfloat16"}
    assert row["bytes"] > 0


def test_empty(run: Run) -> None:
    assert run("cache", "list").stdout == "the cache is empty\n"
    assert json.loads(run("cache", "list", "--json").stdout) == {"artifacts": []}
    assert run("cache", "clear").stdout == "removed 0 artifacts, 0 bytes\n"


def test_clear_asks(run: Run, kept: Path) -> None:
    result = run("cache", "clear", stdin="n\n")
    assert result.exit_code == 130
    assert kept.exists()
    result = run("cache", "clear", stdin="y\n")
    assert result.exit_code == 0
    assert "removed 1 artifacts" in result.stdout
    assert not kept.exists()


def test_clear_without_asking(run: Run, kept: Path) -> None:
    found = json.loads(run("cache", "clear", "--yes", "--json").stdout)
    assert found["removed"] == 1
    assert not kept.exists()


def test_json_does_not_mean_yes(run: Run, kept: Path) -> None:
    result = run("cache", "clear", "--json")
    assert result.exit_code == 2
    assert "--yes" in json.loads(result.stdout)["error"]["next"]
    assert kept.exists()


def test_help_without_a_subcommand(run: Run) -> None:
    result = run("cache")
    assert result.exit_code == 2
    assert "missing command" in result.stderr.lower()


def test_explain(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, object]]] = []
    told: list[Explanation] = []

    def explain(checkpoint: str, **options: object) -> Explanation:
        asked.append((checkpoint, options))
        return told[-1]

    monkeypatch.setattr(cache_api, "explain_cache", explain)
    told.append(Explanation(Path("/k"), True, Path("/k"), ()))
    result = run("cache", "explain", "c", "--dtype", "float32", "--disable-pass", "x")
    assert result.stdout == "cached  /k\n"
    assert asked == [("c", {"dtype": "float32", "disabled_passes": ("x",)})]
    told.append(Explanation(Path("/k"), False, None, ()))
    assert run("cache", "explain", "c").stdout == "not cached  the cache is empty\n"
    told.append(Explanation(Path("/k"), False, Path("/k"), ()))
    assert "it is damaged" in run("cache", "explain", "c").stdout
    changes = (Change("torch", "1", "2"), Change("file config.json", "a", "b"))
    told.append(Explanation(Path("/k"), False, Path("/n"), changes))
    lines = run("cache", "explain", "c").stdout.splitlines()
    assert [line.split(maxsplit=2)[-1] for line in lines[:1]] == ["torch was 1, is 2"]
    assert lines[1].strip() == "config.json changed"
    assert lines[2].split() == ["nearest", "/n"]
    found = json.loads(run("cache", "explain", "c", "--json").stdout)
    assert (found["cached"], found["nearest"]) == (False, "/n")
    assert found["changes"][0] == {
        "factor": "torch",
        "cached": "1",
        "now": "2",
        "words": "torch was 1, is 2",
    }
