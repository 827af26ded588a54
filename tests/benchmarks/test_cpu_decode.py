"""The benchmark of decoding: its phases, its command line, and a whole run on the example."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import cpu_decode, harness
from benchmarks.cpu_decode import PHASES, Lengths, parse, phases_of
from benchmarks.peers.client import Client
from benchmarks.peers.rounds import Timing
from benchmarks.peers.work import Work
from benchmarks.rates import Meter, Reading

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "demo-llama"
WORK = Work(body=1000, head=500, attention=10, vocab_size=50)
LENGTHS = Lengths(context=16, steps=4, batch=3, prefill=32)


class FakeClient:
    """Notes what it is asked; takes a second for the first token and two for the rest."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append(arguments)
        return {"first_s": 1.0, "decode_s": 2.0}


def test_phases_time_what_they_say() -> None:
    client = FakeClient()
    decode, batch, prefill = phases_of(WORK, LENGTHS, PHASES)
    assert decode.ask(cast(Client, client), 0) == Timing(2.0, 4)
    assert batch.ask(cast(Client, client), 0) == Timing(2.0, 12)
    assert prefill.ask(cast(Client, client), 0) == Timing(1.0, 32)
    sizes = [[len(prompt) for prompt in one["prompts"]] for one in client.asked]
    assert sizes == [[16], [16, 16, 16], [32]]
    assert [one["steps"] for one in client.asked] == [4, 4, 0]
    decode.ask(cast(Client, client), 1)
    assert client.asked[-1]["prompts"] != client.asked[0]["prompts"]


def test_phases_are_bounded_by_what_they_read_and_compute() -> None:
    reading = Reading(1e3, {"bf16": 1e12, "int8": 1e12})
    decode, batch, prefill = phases_of(WORK, LENGTHS, PHASES)
    assert [one.bound("bf16")(reading, 500) for one in (decode, batch, prefill)] == [2.0, 2.0, 0.5]
    slow = Reading(1e12, {"bf16": 1.0})
    assert prefill.bound("bf16")(slow, 500) == WORK.prefill_flop(32)
    assert [one.title for one in phases_of(WORK, LENGTHS, ["prefill"])] == ["prefill of 32 tokens"]


def models(folder: Path) -> Path:
    place = folder / "models" / "demo"
    place.mkdir(parents=True)
    (place / "checkpoint").symlink_to(EXAMPLE)
    return folder


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = parse(["--peers", str(models(tmp_path)), "--shape", "demo", "--phase", "decode"])
    assert (options.phase, options.steps, options.batch) == (["decode"], 64, 8)
    with pytest.raises(SystemExit):
        parse(["--peers", str(tmp_path), "--shape", "demo", "--phase", "dance"])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.slow
def test_a_whole_run_on_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(cpu_decode, "Meter", partial(Meter, buffer_bytes=1 << 22))
    command = ["--peers", str(models(tmp_path)), "--shape", "demo", "--precision", "bf16"]
    command += ["--engine", "graphopt", "hf-eager", "llama.cpp", "--rounds", "2", "--threads", "1"]
    command += ["--context", "16", "--steps", "8", "--batch", "2", "--prefill", "32"]
    monkeypatch.setattr(sys, "argv", ["cpu_decode", *command, "--attempts", "1"])
    cpu_decode.main()
    rows = json.loads((tmp_path / "results" / "cpu" / "decode-demo.json").read_text())["rows"]
    samples = {(one["engine"], one["phase"], one["round"]) for one in rows["samples"]}
    assert len(samples) == len(rows["samples"]) == 2 * 4 * 2  # engines, phases, rounds
    ours, theirs, absent = rows["engines"]
    assert ours["absent"] == theirs["absent"] == ""
    assert "not installed" in absent["absent"]
    assert ours["weight_bytes"] > 0
    assert len(ours["first_tokens"]) == 4
    assert "llama.cpp" in capsys.readouterr().out
