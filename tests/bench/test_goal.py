"""Goals: what is fast enough."""

from __future__ import annotations

import pytest

from graphopt.bench.goal import Goal
from graphopt.bench.outcome import Outcome
from graphopt.errors import UsageError


def answered(**more: object) -> Outcome:
    fields = {
        "ttft_s": 0.2,
        "gaps_s": [0.05, 0.15],
        "e2e_s": 0.5,
        "output_tokens": 3,
        "status": 200,
    }
    return Outcome(**{**fields, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "met"),
    [
        (["ttft:200"], True), (["ttft:199.9"], False), (["tpot:100"], True), (["tpot:99"], False),
        (["itl:150"], True), (["itl:149"], False), (["e2e:500"], True), (["e2e:499"], False),
        (["ttft:200", "tpot:100", "e2e:500"], True), (["ttft:200", "tpot:99"], False), ([], True),
    ],
)  # fmt: skip
def test_every_bound_has_to_be_met(words: list[str], met: bool) -> None:
    assert Goal.parse(words).met_by(answered()) == met


def test_what_failed_is_never_good() -> None:
    goal = Goal.parse(["ttft:1000"])
    assert not goal.met_by(answered(error="broke off"))
    assert not goal.met_by(answered(ttft_s=None))


def test_one_token_has_no_time_per_token() -> None:
    assert Goal.parse(["tpot:1", "itl:1"]).met_by(answered(gaps_s=[], output_tokens=1))


@pytest.mark.parametrize(
    "word", ["ttft", "ttft:", "ttft:a", "ttft:0", "ttft:-1", "tps:3", "ttft:nan", "ttft:inf"]
)
def test_nonsense_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="no bound"):
        Goal.parse([word])


def test_a_bound_is_given_once() -> None:
    with pytest.raises(UsageError):
        Goal.parse(["ttft:1", "ttft:2"])
