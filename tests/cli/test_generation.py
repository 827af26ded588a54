"""Prompts are run and shown; times come from the requests themselves."""

from __future__ import annotations

import json

import pytest

from graphopt.cli.generation import batch_json, print_batch, run_batch, stream_one
from graphopt.cli.session import Session
from graphopt.runtime.sampling_params import SamplingParams
from tests.cli.fake_api import WORDS, FakeAPI

TEXT = "".join(WORDS)


@pytest.fixture
def session(fake: FakeAPI) -> Session:
    artifact = fake.artifact()
    return Session(artifact, fake.LLM(artifact))  # type: ignore[arg-type]


def test_stream(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    statistics = stream_one(session, "Once", SamplingParams(), echo=True)
    assert capsys.readouterr().out == f"Once{TEXT}\n"
    assert (statistics.requests, statistics.output_tokens) == (1, len(WORDS))
    assert statistics.first_token_s is not None
    assert 0 <= statistics.first_token_s <= statistics.total_s


def test_batch(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    outputs, statistics = run_batch(session, ["one", [4, 5]], SamplingParams(n=2))
    assert statistics.requests == 4
    assert statistics.prompt_tokens == 3 + 2
    assert statistics.output_tokens == 4 * len(WORDS)
    assert statistics.first_token_s == 0.25
    print_batch(session, outputs, echo=False)
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("==>")]
    assert heads == [
        "==> 1 of 2, sample 1: one <==",
        "==> 1 of 2, sample 2: one <==",
        "==> 2 of 2, sample 1: 4 5 <==",
        "==> 2 of 2, sample 2: 4 5 <==",
    ]


def test_batch_as_json(session: Session) -> None:
    outputs, statistics = run_batch(session, ["one", [4, 5]], SamplingParams())
    found = batch_json("m.gopt", outputs, statistics)
    assert json.loads(json.dumps(found)) == found
    assert found["model"] == "m.gopt"
    assert [output["prompt"] for output in found["outputs"]] == ["one", None]
    assert found["outputs"][1]["prompt_token_ids"] == [4, 5]
    assert found["outputs"][0]["samples"] == [
        {
            "text": TEXT,
            "token_ids": list(range(len(WORDS))),
            "finish_reason": "stop",
            "stop_reason": None,
            "logprobs": None,
        }
    ]
