"""The benchmark of serving: every request gets its tokens, and a whole run on the example."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import cpu_serve, harness
from benchmarks.cpu_serve import parse, serve, title
from benchmarks.peers import mix as mixes
from benchmarks.peers.client import Client, PeerError
from benchmarks.peers.mix import Mix
from benchmarks.peers.rounds import Timing
from benchmarks.rates import Meter
from tests.benchmarks.test_cpu_decode import models

MIX = Mix([[1], [2, 3]], [4, 5])


class FakeClient:
    """Gives every request so many tokens."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert (do, arguments["outputs"]) == ("serve", MIX.outputs)
        return {"seconds": 3.0, "counts": self.counts}


def test_output_tokens_count() -> None:
    assert serve(cast(Client, FakeClient([4, 5])), MIX) == Timing(3.0, 9)
    assert title(MIX, 16) == "serving 2 requests, 16 at a time"


def test_a_request_that_ends_early_is_an_error() -> None:
    with pytest.raises(PeerError, match="request 1 got 3 tokens of 5"):
        serve(cast(Client, FakeClient([4, 3])), MIX)


def test_the_command_line(tmp_path: Path) -> None:
    options = parse(["--peers", str(models(tmp_path)), "--shape", "demo"])
    assert (options.requests, options.running, options.seed) == (32, 16, 0)


@pytest.mark.slow
def test_a_whole_run_on_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(cpu_serve, "Meter", partial(Meter, buffer_bytes=1 << 22))
    monkeypatch.setattr(mixes, "PROMPT_TOKENS", (4, 64))
    monkeypatch.setattr(mixes, "OUTPUT_TOKENS", (1, 16))
    command = ["--peers", str(models(tmp_path)), "--shape", "demo", "--precision", "bf16"]
    command += ["--engine", "graphopt", "hf-eager", "openvino"]
    command += ["--rounds", "1", "--threads", "1", "--requests", "6", "--running", "3"]
    monkeypatch.setattr(sys, "argv", ["cpu_serve", *command, "--attempts", "1"])
    cpu_serve.main()
    rows = json.loads((tmp_path / "results" / "cpu" / "serve-demo.json").read_text())["rows"]
    assert len(rows["settings"]["prompt_tokens"]) == 6
    assert [one["engine"] for one in rows["samples"]] == ["graphopt", "hf-eager"]
    assert rows["samples"][0]["timing"]["tokens"] == sum(rows["settings"]["output_tokens"])
    reasons = {one["name"]: one["absent"] for one in rows["engines"]}
    assert reasons["graphopt"] == reasons["hf-eager"] == ""
    assert "not installed" in reasons["openvino"]
    assert "openvino" in capsys.readouterr().out
