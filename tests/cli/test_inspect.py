"""Inspect: every view of an artifact, in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from graphopt.artifact import write_artifact
from graphopt.cli.output import human_bytes
from graphopt.ledger import Ledger
from graphopt.plan import Plan
from tests.test_artifact import contents
from tests.test_plan import small_plan

Run = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "model.gopt"
    write_artifact(folder, contents())
    return folder


def test_summary(run: Run, path: Path) -> None:
    result = run("inspect", path)
    assert result.exit_code == 0, result.output
    for line in (
        "model      tiny, TinyForCausalLM, 12 parameters",
        "target     cpu, computes in bfloat16",
        "context    128 tokens, vocabulary 50",
        "tokenizer  yes",
        "plan       2 pieces, 2 steps (2 by torch)",
        "KV cache   112 bytes a token, 14.0 KiB a full context",
        "made by    torch 2.13",
        "note       a note",
    ):
        assert line in result.stdout.splitlines()
    # slots of 8 T, 16 T + 3 and 4 bytes
    assert (
        f"buffers    31 bytes for a step of 1, {human_bytes(24 * 512 + 7)} for a step of 512"
        in (result.stdout)
    )
    assert "plan.json" in result.stdout


def test_summary_as_json(run: Run, path: Path) -> None:
    found = json.loads(run("inspect", path, "--json").stdout)
    assert found["buffer_bytes"] == {"1": 31, "512": 24 * 512 + 7}
    assert found["total_bytes"] == sum(found["files"].values())
    assert set(found["files"]) == {
        str(file.relative_to(path))
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith("manifest")
    }


def test_graph(run: Run, path: Path) -> None:
    assert run("inspect", path, "--graph").stdout == contents().graph_text
    assert json.loads(run("inspect", path, "--graph", "--json").stdout) == {
        "graph": contents().graph_text
    }


def test_stage(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "staged.gopt"
    write_artifact(folder, replace(contents(), extra_files={"stages/traced.ir": b"graph @t\n"}))
    assert run("inspect", folder, "--stage", "traced").stdout == "graph @t\n"
    assert json.loads(run("inspect", folder, "--stage", "traced", "--json").stdout) == {
        "stage": "graph @t\n"
    }
    result = run("inspect", folder, "--stage", "fused")
    assert result.exit_code == 6
    assert "--keep-stages" in result.stderr


def test_ledger(run: Run, path: Path) -> None:
    lines = run("inspect", path, "--ledger").stdout.splitlines()
    assert lines[0].split() == ["rule", "verdict", "places", "saves", "reason", "first", "at"]
    assert lines[1].split() == ["fuse", "applied", "1", "64", "bytes", "it", "fits", "layer", "0"]
    assert lines[2].split() == ["fuse", "refused", "1", "it", "does", "not", "layer", "1"]
    rows = json.loads(run("inspect", path, "--ledger", "--json").stdout)["ledger"]
    assert Ledger.from_json(rows) == contents().ledger


def test_plan(run: Run, path: Path) -> None:
    assert run("inspect", path, "--plan").stdout.splitlines() == [
        "piece p0, may be captured, 1 steps",
        "      0  torch  b1 = embed(b0, @table) frees b0  // model.embed",
        "  cut: because",
        "piece p1, cannot be captured, 1 steps",
        "      1  torch  b2 = attention(b1, %kv) frees b1  // model.layers.0",
    ]
    found = json.loads(run("inspect", path, "--plan", "--json").stdout)
    assert Plan.from_json(found["plan"]) == small_plan()


def test_several_views(run: Run, path: Path) -> None:
    found = json.loads(run("inspect", path, "--plan", "--graph", "--ledger", "--json").stdout)
    assert set(found) == {"plan", "graph", "ledger"}
    text = run("inspect", path, "--plan", "--graph").stdout
    assert "graph @tiny" in text
    assert "piece p1" in text


def test_damage_is_found_when_asked_for(run: Run, path: Path) -> None:
    file = path / "weights/weights-0000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert run("inspect", path).exit_code == 0
    result = run("inspect", path, "--check")
    assert result.exit_code == 6
    assert "weights/weights-0000.safetensors" in result.stderr


def test_not_an_artifact(run: Run, tmp_path: Path) -> None:
    result = run("inspect", tmp_path, "--json")
    assert result.exit_code == 6
    assert json.loads(result.stdout)["error"]["what"] == "this is not an artifact"
