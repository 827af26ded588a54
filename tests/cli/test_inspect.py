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
from graphopt.ir.printer import print_graph
from graphopt.ledger import Ledger, accept, refuse
from graphopt.plan import Plan
from tests.report.models import two_layers
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
    # of 16 T + 3 bytes, 4 bytes and scratch of 2 T, each rounded up to 64
    large = 16 * 512 + 64 + 64 + 2 * 512
    assert f"buffers    192 bytes for a step of 1, {human_bytes(large)} for a step of 512" in (
        result.stdout
    )
    assert "memory     weights" in result.stdout
    assert "KV " in result.stdout
    assert "plan.json" in result.stdout


def test_summary_as_json(run: Run, path: Path) -> None:
    found = json.loads(run("inspect", path, "--json").stdout)
    assert found["buffer_bytes"] == {"1": 192, "512": 16 * 512 + 64 + 64 + 2 * 512}
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
    assert lines[0].split() == ["rule", "where", "decision", "places", "saves", "reason"]
    assert lines[1].split() == ["fuse", "layer", "0", "applied", "1", "64", "bytes", "it", "fits"]
    assert lines[2].split() == ["fuse", "layer", "1", "refused", "1", "it", "does", "not"]
    assert lines[4].split() == ["rule", "applied", "refused", "saves"]
    assert lines[5].split() == ["fuse", "1", "1", "64", "bytes"]
    found = json.loads(run("inspect", path, "--ledger", "--json").stdout)
    assert Ledger.from_json(found["ledger"]) == contents().ledger
    assert found["ledger_totals"] == [
        {"rule": "fuse", "applied": 1, "refused": 1, "saves_bytes": 64}
    ]


def layered(folder: Path) -> Path:
    """An artifact whose ledger has decisions in several layers."""
    ledger = Ledger()
    for layer in (0, 1, 2, 4):
        where = f"%{layer} model.layers.{layer}.mlp"
        ledger.record("merge", where, accept("two of one input", saves_bytes=512))
    ledger.record("fuse", "%9 model.norm", refuse("it does not fit", "%8"))
    write_artifact(folder, replace(contents(), ledger=ledger))
    return folder


def test_equal_decisions_are_one_row(run: Run, tmp_path: Path) -> None:
    path = layered(tmp_path / "layered.gopt")
    lines = run("inspect", path, "--ledger").stdout.splitlines()
    row = "merge model.layers.0-2, 4.mlp applied 4 2.0 KiB two of one input"
    assert lines[1].split() == row.split()
    each = run("inspect", path, "--ledger", "--all").stdout.splitlines()
    assert each[0].split() == ["rule", "where", "decision", "saves", "reason"]
    assert sum(line.startswith("merge  ") and "applied" in line for line in each) == 4
    assert "it does not fit: %8" in each[5]


def test_the_ledger_is_filtered(run: Run, tmp_path: Path) -> None:
    path = layered(tmp_path / "layered.gopt")
    refused = json.loads(run("inspect", path, "--ledger", "--refused", "--json").stdout)
    assert [row["rule"] for row in refused["ledger"]] == ["fuse"]
    of_one = json.loads(run("inspect", path, "--ledger", "--rule", "merge", "--json").stdout)
    assert [row["saves_bytes"] for row in of_one["ledger"]] == [512] * 4
    result = run("inspect", path, "--ledger", "--rule", "absent")
    assert result.exit_code == 2
    assert "merge, fuse" in result.stderr


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (["--rule", "merge"], "--ledger"),
        (["--refused"], "--ledger"),
        (["--all"], "--ledger"),
        (["-o", "page.html"], "--report"),
    ],
)
def test_an_option_without_the_one_it_needs(
    words: list[str], needed: str, run: Run, path: Path
) -> None:
    result = run("inspect", path, *words)
    assert result.exit_code == 2
    assert f"means nothing without {needed}" in result.stderr


def test_report(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "tiny.gopt"
    source = two_layers()
    graph_text = print_graph(source.graph)
    write_artifact(
        folder,
        replace(contents(), plan=source.plan, graph_text=graph_text, ledger=source.ledger),
    )
    page = tmp_path / "page.html"
    result = run("inspect", folder, "--report", "-o", page)
    assert result.exit_code == 0, result.output
    assert str(page) in result.stdout
    assert page.read_text().startswith("<!doctype html>")
    found = json.loads(run("inspect", folder, "--report", "-o", page, "--json").stdout)
    assert found["report"] == {"file": str(page), "bytes": page.stat().st_size}
    new = tmp_path / "new" / "page.html"
    assert run("inspect", folder, "--report", "-o", new).exit_code == 0
    assert new.is_file()
    result = run("inspect", folder, "--report", "-o", new / "page.html")
    assert result.exit_code == 9
    assert "the report cannot be written" in result.stderr


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
    assert set(found) == {"plan", "graph", "ledger", "ledger_totals"}
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
