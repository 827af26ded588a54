"""Whole measurements of a server that answers as it is told."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from graphopt.bench.goal import Goal
from graphopt.bench.lengths import Lengths
from graphopt.bench.outcome import Outcome
from graphopt.bench.session import Measured, Measurement, measure, with_details
from graphopt.errors import UsageError

from .fake_server import FakeServer, answer, plain


def run(fake: FakeServer, **options: Any) -> tuple[Measured, list[str], list[Outcome]]:
    said: list[str] = []
    ended: list[Outcome] = []
    asked = Measurement(fake.url, prompt_tokens=Lengths("fixed", 9), **options)
    return asyncio.run(measure(asked, said.append, ended.append)), said, ended


def test_a_run(fake: FakeServer) -> None:
    fake.script = answer(3, 0.02, 0.01)
    goal = Goal.parse(["ttft:60000", "tpot:60000"])
    measured, said, ended = run(
        fake,
        num_prompts=8,
        max_concurrency=4,
        warmup=2,
        output_tokens=Lengths("fixed", 3),
        goal=goal,
    )
    (result,) = measured.result["runs"]
    assert (result["requests"], result["completed"]) == (8, 8)
    assert result["output_tokens"] == 24
    assert result["prompt_tokens"] == 88  # as the server counts
    assert result["ttft_ms"]["p50"] >= 19
    assert result["request_rate"] is None
    assert result["goodput"]["met"] == 8
    assert len(ended) == 8
    assert len(fake.asked) == 10
    assert fake.most == 4
    assert {body["max_tokens"] for body in fake.asked} == {3}
    assert any("no /tokenize" in text for text in said)
    json.dumps(with_details(measured), allow_nan=False)
    assert len(with_details(measured)["runs"][0]["details"]) == 8


def test_several_rates(fake: FakeServer) -> None:
    goal = Goal.parse(["ttft:60000"])
    measured, _, _ = run(
        fake, num_prompts=6, rates=(50.0, 200.0, math.inf), goal=goal, tokenizer="words"
    )
    assert [one["request_rate"] for one in measured.result["runs"]] == [50.0, 200.0, None]
    assert measured.result["sustained_rate"] == 200.0
    prompts = [body["prompt"] for body in fake.asked]
    assert len(set(prompts)) == len(prompts) == 19  # no run finds what another left in a cache


def test_exact_lengths(fake: FakeServer) -> None:
    fake.tokenizes = True
    measured, said, _ = run(fake, num_prompts=4)
    assert not any("tokenize" in text for text in said)
    assert {len(body["prompt"]) for body in fake.asked} <= {15, 16}  # eight tokens and one added
    assert measured.result["settings"]["prompt_tokens"] == "9"


def test_a_trace(fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"timestamp": 5.0, "prompt": "mine", "output_tokens": 2}\n'
        '{"timestamp": 5.05, "prompt_tokens": 6, "output_tokens": 4}\n'
    )
    measured, said, _ = run(fake, trace=path, warmup=0, tokenizer="words")
    first, second = fake.asked
    assert (first["prompt"], first["max_tokens"], second["max_tokens"]) == ("mine", 2, 4)
    assert len(second["prompt"].split(" ")) == 6
    assert measured.outcomes[0][1].sent_s >= 0.05
    assert measured.result["runs"][0]["request_rate"] is None
    assert any("trace" in text for text in said)


def test_refusals_are_counted(fake: FakeServer) -> None:
    fake.script = [(0, plain(429, {"error": "full"}))]
    measured, _, _ = run(fake, num_prompts=5, warmup=0)
    assert measured.result["runs"][0]["failed"] == {"429": 5}


def test_a_warm_up_that_fails_says_so_before_the_run(fake: FakeServer) -> None:
    fake.script = [(0, plain(400, {"error": "unknown field ignore_eos"}))]
    with pytest.raises(UsageError, match="answers no request") as caught:
        run(fake, num_prompts=1000)
    assert "ignore_eos" in str(caught.value.got)


def test_no_key_is_in_the_result(fake: FakeServer) -> None:
    measured, _, _ = run(fake, num_prompts=1, api_key="secret-key")
    assert "secret-key" not in json.dumps(with_details(measured))
    assert "secret-key" not in repr(Measurement(fake.url, api_key="secret-key"))
