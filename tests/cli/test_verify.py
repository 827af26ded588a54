"""Verify: the error of every piece, and exit code 8 when one is too large."""

from __future__ import annotations

import json
from collections.abc import Callable

from click.testing import Result

from tests.cli.fake_api import FakeAPI, Report, Row

Run = Callable[..., Result]
GOOD = Report((Row("p0", "model.embed", 1e-7, 1e-5),), 2e-7, None, True, "float32", (1, 2, 3))
BAD = Report(
    (Row("p0", "model.embed", 1e-7, 1e-5), Row("p1", "model.layers.0", 2e-3, 1e-5)),
    3e-3,
    4e-3,
    False,
    "float32",
    (1, 2),
)


def test_agreement(run: Run, fake: FakeAPI) -> None:
    fake.report = GOOD
    result = run("verify", "m.gopt")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["piece", "scope", "error", "tolerance"]
    assert lines[1].split() == ["p0", "model.embed", "1.00e-07", "1e-05", "ok"]
    assert "verdict   agrees" in lines[-1]
    assert "transformers" not in result.stdout
    assert fake.calls == [
        ("verify_artifact", ("m.gopt",), {"reference": None, "text": None, "tokens": None})
    ]


def test_disagreement(run: Run, fake: FakeAPI) -> None:
    fake.report = BAD
    result = run("verify", "m.gopt", "--reference", "c")
    assert result.exit_code == 8
    assert "2.00e-03" in result.stdout
    assert "relative error 4.00e-03 against transformers" in result.stdout
    assert "piece p1 model.layers.0" in result.stderr
    assert "at most 1e-05" in result.stderr


def test_disagreement_of_the_logits_alone(run: Run, fake: FakeAPI) -> None:
    fake.report = Report(GOOD.rows, 1e-7, 0.25, False, "float32", (1,))
    result = run("verify", "m.gopt")
    assert result.exit_code == 8
    assert "the logits differ" in result.stderr
    assert "2.50e-01" in result.stderr


def test_json(run: Run, fake: FakeAPI) -> None:
    fake.report = BAD
    result = run("verify", "m.gopt", "--json")
    assert result.exit_code == 8
    assert json.loads(result.stdout) == {"agrees": False, "rows": ["p0", "p1"]}
    fake.report = GOOD
    assert run("verify", "m.gopt", "--json").exit_code == 0


def test_input(run: Run, fake: FakeAPI) -> None:
    fake.report = GOOD
    run("verify", "m.gopt", "--reference", "c", "--text", "hello", "--token-ids", "1,2")
    assert fake.calls[0][2] == {"reference": "c", "text": "hello", "tokens": [1, 2]}
