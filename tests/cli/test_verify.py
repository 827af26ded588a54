"""Verify: the error of every piece, and exit code 8 when one is too large."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from graphopt.runtime.executors.verification import Row, VerifyReport
from tests.cli.fake_api import FakeAPI

Run = Callable[..., Result]
EMBED = Row("p0", "model.embed", 1e-7, 2e-7, 1e-5)
LAYER = Row("p1", "model.layers.0", 2e-3, 2e-7, 1e-5)
LOGITS = Row("logits", "", 3e-7, 2e-7, 1e-5)
UNKNOWN = Row("transformers", "", float("nan"), 2e-7, 1e-5)
GOOD = VerifyReport("float32", 3, (EMBED,), LOGITS, None)
BAD = VerifyReport("float32", 3, (EMBED, LAYER), LOGITS, UNKNOWN)


def test_agreement(run: Run, fake: FakeAPI) -> None:
    fake.report = GOOD
    result = run("verify", "m.gopt")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["compared", "scope", "error", "rounding", "tolerance"]
    assert lines[1].split() == ["p0", "model.embed", "1.00e-07", "2.00e-07", "1.00e-05", "ok"]
    assert lines[2].split() == ["logits", "3.00e-07", "2.00e-07", "1.00e-05", "ok"]
    assert lines[3] == "agrees: 2 of 2 comparisons over 3 tokens in float32"
    options = {"reference": None, "text": None, "tokens": None, "threads": None}
    assert fake.calls == [("verify_artifact", ("m.gopt",), options)]


def test_threads(run: Run, fake: FakeAPI) -> None:
    fake.report = GOOD
    assert run("verify", "m.gopt", "--threads", 3).exit_code == 0
    assert fake.calls[0][2]["threads"] == 3
    refused = run("verify", "m.gopt", "--threads", 3, "--bisect")
    assert refused.exit_code == 2
    assert "--threads means nothing beside --bisect" in refused.stderr
    assert run("verify", "m.gopt", "--threads", 0).exit_code == 2


def test_disagreement(run: Run, fake: FakeAPI) -> None:
    fake.report = BAD
    result = run("verify", "m.gopt", "--reference", "c")
    assert result.exit_code == 8
    lines = result.stdout.splitlines()
    assert [line.split()[-1] for line in lines[1:5]] == ["ok", "differs", "ok", "differs"]
    assert "nan" in lines[4]
    assert lines[5] == "differs: 2 of 4 comparisons over 3 tokens in float32"
    assert "at       p1 model.layers.0" in result.stderr
    assert "at most 1.00e-05" in result.stderr


def test_json(run: Run, fake: FakeAPI) -> None:
    fake.report = BAD
    result = run("verify", "m.gopt", "--json")
    assert result.exit_code == 8
    found = json.loads(result.stdout)
    assert found["agrees"] is False
    assert [row["agrees"] for row in found["steps"]] == [True, False]
    assert found["reference"]["error"] is None
    fake.report = GOOD
    assert run("verify", "m.gopt", "--json").exit_code == 0


def test_input(run: Run, fake: FakeAPI) -> None:
    fake.report = GOOD
    run("verify", "m.gopt", "--reference", "c", "--text", "hello", "--token-ids", "1,2")
    options = fake.calls[0][2]
    assert options == {"reference": "c", "text": "hello", "tokens": [1, 2], "threads": None}


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--repro", "here"], "--repro means nothing without --bisect"),
        (["--bisect", "--text", "hi"], "--text means nothing beside --bisect"),
        (["--bisect", "--token-ids", "1,2"], "--token-ids means nothing beside --bisect"),
    ],
)
def test_options_that_mean_nothing_together(run: Run, words: list[str], place: str) -> None:
    result = run("verify", "m.gopt", *words)
    assert result.exit_code == 2
    assert place in result.stderr
