"""Whole models: numbers are checked before anything is timed, and whoever fails is told of."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import e2e
from benchmarks.gpu.e2e import HF, OURS, REFERENCE, TINY, VLLM, Sizes, Suite, phases_of
from benchmarks.gpu.record import Record
from benchmarks.peers.client import PeerError


class FakeClient:
    """Answers as an engine would, at once; its log-probabilities are off by ``error``."""

    def __init__(self, name: str, error: float, fails: str) -> None:
        self.name, self.error, self.fails = name, error, fails
        self.asked: list[str] = []
        self.sequences = 0
        self.started_s = time.perf_counter()

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.asked.append("closed")

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        self.asked.append(do)
        if do == self.fails:
            raise PeerError("it broke")
        if do == "score":
            return {"logprobs": [[-3.0 + self.error] * (len(one) - 1) for one in given["prompts"]]}
        if do == "generate":
            return {"first_s": 0.5, "decode_s": 0.25 * given["steps"]}
        if do == "steady":
            return {"step_s": 0.01, "device_s": 0.0098, "copied_bytes": 16.0}
        if do == "serve":
            return {"seconds": 2.0, "counts": given["outputs"]}
        return {"versions": {}, **({"capture_s": 4.5} if self.name == OURS else {})}


class Bench:
    """A suite over stand-ins."""

    def __init__(self, tmp_path: Path, fails: str = "", **errors: float) -> None:
        peers = e2e.peers_of(tmp_path, "tiny", tmp_path / "a.gopt")
        self.clients: list[FakeClient] = []
        self.errors, self.fails = errors, fails
        self.file = tmp_path / "out.json"
        self.suite = Suite(
            [replace(one, absent="" if one.name != VLLM else "not installed") for one in peers],
            TINY,
            100,
            Record(self.file, {}),
            rounds=2,
            until=time.time() + 60,
            connect=self.connect,
        )

    def connect(self, peer: Any, sequences: int, context: int) -> Any:
        assert context >= 97
        fails = self.fails if peer.name == HF else ""
        name = peer.name.replace("-", "_")
        self.clients.append(FakeClient(peer.name, self.errors.get(name, 0.0), fails))
        self.clients[-1].sequences = sequences
        return self.clients[-1]


def test_our_error_may_be_twice_that_of_bfloat16(tmp_path: Path) -> None:
    assert Bench(tmp_path, hf=0.1, graphopt=0.19).suite.check() == ""
    assert "off by 0.21" in Bench(tmp_path, hf=0.1, graphopt=-0.21).suite.check()
    nan = Bench(tmp_path, hf=0.1, graphopt=float("nan")).suite.check()
    assert nan.startswith("off by nan")


def test_every_phase_of_every_engine(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.suite.time()
    phases = ["cold start", *(one.name for one in phases_of(TINY, 100))]
    told = {"captures at the start"}
    assert {row["phase"] for row in bench.suite.rows.values()} == {*phases, *told}
    ours = {row["phase"]: row for row in bench.suite.rows.values() if row["engine"] == OURS}
    assert ours["decode 3 x 16"]["samples"] == [250.0, 250.0]
    assert ours["prefill 24"]["samples"] == [48.0, 48.0]
    assert ours["serve 3 of 8 + 4, 2 at a time"]["samples"] == [6.0, 6.0]
    gone = [row for row in bench.suite.rows.values() if row["engine"] == VLLM]
    assert [row["reason"] for row in gone] == ["not installed"] * len(phases)
    assert REFERENCE not in {row["engine"] for row in bench.suite.rows.values()}
    # Serving has a process of its own, which runs no more at a time than it is told.
    started = [(one.name, one.sequences, "serve" in one.asked) for one in bench.clients]
    assert started == [(OURS, 3, False), (OURS, 2, True), (HF, 3, False), (HF, 2, True)]
    assert all(one.asked[-1] == "closed" for one in bench.clients)
    written = json.loads(bench.file.read_text())
    assert set(written["rows"]) == set(bench.suite.rows)


def test_what_the_gpu_does_in_our_steps_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.suite._sizes = replace(TINY, steady=((2, 8),))
    bench.suite.time()
    rows = bench.suite.rows
    assert rows["graphopt: captures at the start"]["samples"] == [4.5]
    assert rows["graphopt: GPU idle 2 x 8"]["samples"] == pytest.approx([2.0, 2.0])
    assert rows["graphopt: copied to the GPU 2 x 8"]["samples"] == [16.0, 16.0]
    assert not any("idle" in name for name in rows if not name.startswith(OURS))
    late = Bench(tmp_path)
    late.suite._sizes, late.suite._until = replace(TINY, steady=((2, 8),)), 0.0
    late.suite.time()
    assert late.suite.rows["graphopt: GPU idle 2 x 8"]["reason"] == "no time was left"


@pytest.mark.parametrize(("fails", "lost"), [("serve", 1), ("load", 5), ("generate", 5)])
def test_a_peer_that_fails_is_told_of_and_the_others_go_on(
    tmp_path: Path, fails: str, lost: int
) -> None:
    bench = Bench(tmp_path, fails)
    bench.suite.time()
    reasons = [row.get("reason") for row in bench.suite.rows.values() if row["engine"] == HF]
    assert reasons.count("it broke") == lost
    assert not any("reason" in row for row in bench.suite.rows.values() if row["engine"] == OURS)


def test_what_does_not_fit_or_has_no_time_is_left_out(tmp_path: Path) -> None:
    names = [one.name for one in phases_of(Sizes(), 100)]
    assert "decode 64 x 8192" in names
    assert "decode 256 x 8192" not in names
    assert Sizes().context == 8192 + e2e.MARGIN
    bench = Bench(tmp_path)
    bench.suite._until = 0.0
    bench.suite.time()
    late = [row for row in bench.suite.rows.values() if row.get("reason") == "no time was left"]
    assert len(late) == 2 * len(phases_of(TINY, 100))


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    seen = []
    monkeypatch.setattr(e2e, "main", lambda words: seen.append(words) or 7)
    assert command.main(["--suite", "e2e", "--shape", "qwen3-8b"]) == 7
    assert seen == [["--shape", "qwen3-8b"]]
    monkeypatch.undo()
    monkeypatch.setattr(e2e.torch.cuda, "is_available", lambda: False)
    assert e2e.main(["--models", "somewhere"]) == 2
    assert "--dry-run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        e2e.options_of(["--shape", "unknown"])


@pytest.mark.full
def test_a_dry_run_goes_all_the_way(tmp_path: Path) -> None:
    words = ["--models", str(tmp_path), "--dry-run", "--rounds", "1", "--out", str(tmp_path / "o")]
    assert e2e.main(words) == 0
    found = json.loads((tmp_path / "o").read_text())
    assert found["check"]["graphopt"] <= found["check"]["bound"]
    engines = {row["engine"] for row in found["rows"].values() if row.get("samples")}
    assert {OURS, HF} <= engines


def test_ours_is_compiled_with_an_option_more_and_timed_beside(tmp_path: Path) -> None:
    ours = e2e.peers_of(tmp_path, "tiny", tmp_path / "a.gopt")[0]
    one, two = e2e.also_peers(ours, e2e.ALSO, lambda also: tmp_path / f"{also}.gopt")
    assert (one.name, one.model) == (
        "graphopt dependent-launch",
        tmp_path / "dependent-launch.gopt",
    )
    assert (two.name, two.engine) == ("graphopt deterministic", ours.engine)
    assert e2e.options_of(["--models", "x", "--compile-also", *e2e.ALSO]).compile_also == [
        *e2e.ALSO
    ]


def test_an_option_more_is_an_artifact_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(e2e.subprocess, "run", run)
    (e2e.shape_folder(tmp_path, "tiny") / "checkpoint").mkdir(parents=True)
    (e2e.shape_folder(tmp_path, "tiny") / "checkpoint" / "config.json").write_text("{}")
    plain = e2e.prepare(tmp_path, "tiny", "cuda:sm_90")
    early = e2e.prepare(tmp_path, "tiny", "cuda:sm_90", "dependent-launch")
    assert plain.name == "cuda-sm_90.gopt"
    assert early.name == "cuda-sm_90-dependent-launch.gopt"
    assert ["--dependent-launch" in one for one in asked] == [False, True]
