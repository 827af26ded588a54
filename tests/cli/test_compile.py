"""Compile: options reach the API, and the result is told in words or as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from graphopt import api, bisect_api
from graphopt.bisect_api import PassCheck, PassChecks
from graphopt.contents_api import Compiled
from graphopt.ir.dtype import DType
from graphopt.ir.printer import print_graph
from graphopt.ledger import PassReport
from graphopt.passes.equivalence import Comparer
from tests.cli.fake_api import FakeAPI
from tests.passes import wrong

Run = Callable[..., Result]


def test_result(run: Run, fake: FakeAPI) -> None:
    result = run("compile", "some/checkpoint", "-o", "out.gopt")
    assert result.exit_code == 0, result.output
    assert fake.calls == [
        (
            "compile_reported",
            ("some/checkpoint", "out.gopt"),
            {"keep_stages": False, "reuse": True},
        )
    ]
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert str(fake.folder / "model.gopt") in lines["artifact"]
    assert lines["model"] == "tiny, TinyForCausalLM, 12 parameters"
    assert lines["target"] == "cpu, computes in bfloat16"
    assert lines["plan"] == "2 pieces, 2 steps (2 by torch)"
    assert lines["note"] == "a note"
    assert result.stderr == ""


def compiled() -> Compiled:
    """What the fake says that it compiled: two passes, of which one did something."""
    reports = (
        PassReport("first", True, 3, 0.25, 90, 80, 4096, 2048),
        PassReport("second", False, 0, 0.5, 80, 80, 2048, 2048),
    )
    plain: Any = None
    seconds = {"tracing": 1.0, "native": 2.5}
    return Compiled(plain, plain, {}, plain, plain, plain, reports, "rule at %7", seconds, {})


def test_verbose_says_what_passes_did(run: Run, fake: FakeAPI) -> None:
    fake.compiled = compiled()
    lines = run("compile", "c", "-v").stdout.splitlines()
    assert fake.calls[0][2]["reuse"] is False
    assert lines[0].split() == ["pass", "rewrites", "ms", "nodes", "after", "bytes", "after"]
    assert lines[1].split() == ["first", "3", "250.0", "90", "80", "4.0", "KiB", "2.0", "KiB"]
    found = json.loads(run("compile", "c", "--json").stdout)
    assert [(row["name"], row["rewrites"], row["ms"]) for row in found["passes"]] == [
        ("first", 3, 250.0),
        ("second", 0, 500.0),
    ]
    assert found["stages_ms"] == {"tracing": 1000.0, "native": 2500.0}
    assert [line.split() for line in lines[4:7]] == [
        ["stage", "ms"],
        ["tracing", "1000.0"],
        ["native", "2500.0"],
    ]
    assert found["reused"] is False


def test_what_is_reused_says_so(run: Run, fake: FakeAPI) -> None:
    assert "compiled before" in run("compile", "c").stdout
    fake.compiled = compiled()
    assert "compiled before" not in run("compile", "c").stdout


def test_fuel_names_the_last_rewrite(run: Run, fake: FakeAPI) -> None:
    fake.compiled = compiled()
    assert "3 of 9 rewrites" in run("compile", "c", "--pass-fuel", "9").stdout
    assert "the last: rule at %7" in run("compile", "c", "--pass-fuel", "3").stdout


def test_dumps(run: Run, fake: FakeAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "pass_names", lambda: ("first", "second", "third"))
    before, after = wrong.decoder(), wrong.decoder(DType.BF16)
    fake.stages = [("first", before, after), ("second", after, after), ("third", after, before)]
    printed = run("compile", "c", "--dump-after", "first").stdout
    assert f"// after first\n{print_graph(after)}" in printed
    assert print_graph(before) not in printed
    result = run("compile", "c", "--dump-after", "all", "--dump-dir", tmp_path / "dumps")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "dumps").iterdir()) == ["00-first.ir", "01-third.ir"]
    assert (tmp_path / "dumps/01-third.ir").read_text() == print_graph(before)
    found = json.loads(run("compile", "c", "--dump-after", "second", "--json").stdout)
    assert found["dumped"] == {"second": print_graph(after)}


def test_dumps_that_cannot_be(run: Run, fake: FakeAPI, tmp_path: Path) -> None:
    result = run("compile", "c", "--dump-after", "frist")
    assert result.exit_code == 2
    assert "share-common" in result.stderr
    result = run("compile", "c", "--dump-dir", tmp_path)
    assert result.exit_code == 2
    assert "without --dump-after" in result.stderr
    assert fake.calls == []
    (tmp_path / "file").write_text("x")
    graph = wrong.decoder()
    fake.stages = [("share-common", graph, wrong.decoder())]
    result = run("compile", "c", "--dump-after", "all", "--dump-dir", tmp_path / "file/deep")
    assert result.exit_code == 9
    assert "cannot be written" in result.stderr


def test_passes_are_checked_first(run: Run, fake: FakeAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = wrong.decoder()
    checks = PassChecks("a twin", (PassCheck("first", Comparer(graph).compare(graph, graph)),))
    asked: list[dict[str, object]] = []

    def verify_passes(checkpoint: str, **options: object) -> PassChecks:
        assert fake.calls == []
        asked.append(options)
        return checks

    monkeypatch.setattr(bisect_api, "verify_passes", verify_passes)
    result = run("compile", "c", "--verify-passes", "--dtype", "float32", "-v")
    assert "1 passes, 1 comparisons, all within tolerance" in result.stdout
    assert "on a twin" in result.stdout
    assert result.stdout.splitlines()[1].split()[:2] == ["first", "f32"]
    assert asked[0]["dtype"] == "float32"
    fake.calls.clear()
    found = json.loads(run("compile", "c", "--verify-passes", "--json").stdout)["checked"]
    assert found["subject"] == "a twin"
    assert found["passes"][0]["comparisons"][0]["dtype"] == "f32"


def test_into_the_cache(run: Run, fake: FakeAPI) -> None:
    run("compile", "c")
    assert fake.calls[0][1] == ("c", None)


def test_options(run: Run, fake: FakeAPI) -> None:
    words = shlex.split(
        "--target cpu:avx512 --dtype bfloat16 --max-model-len 4K --block-size 32 "
        "--quantize int4 --allow-unproven --keep-stages --no-cache "
        "--disable-pass b --disable-pass a --pass-fuel 7"
    )
    assert run("compile", "c", *words).exit_code == 0
    assert fake.calls[0][2] == {
        "target": "cpu:avx512",
        "dtype": "bfloat16",
        "max_model_len": 4096,
        "block_size": 32,
        "quantize": "int4",
        "allow_unproven": True,
        "keep_stages": True,
        "reuse": False,
        "disabled_passes": ("b", "a"),
        "pass_fuel": 7,
    }


def test_json(run: Run, fake: FakeAPI) -> None:
    found = json.loads(run("compile", "c", "--json").stdout)
    assert found["path"] == str(fake.folder / "model.gopt")
    assert found["kv_bytes_per_token"] == 2 * 12 * 2 + 16 * 4
    assert found["steps_per_backend"] == {"torch": 2}
    assert found["seconds"] >= 0
    assert found["reused"] is True
    assert found["passes"] is None
    assert found["checked"] is None


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["--target", "tpu"], 2, "unknown target"),
        (["--target", "cuda"], 2, "for its architecture"),
        (["--target", "cuda:sm_70"], 4, "no kernels for sm_70"),
        (["--block-size", "4096"], 2, "block_size is out of range"),
    ],
)
def test_options_that_the_api_refuses(run: Run, words: list[str], code: int, what: str) -> None:
    result = run("compile", "some/checkpoint", *words)
    assert result.exit_code == code
    assert what in result.stderr
