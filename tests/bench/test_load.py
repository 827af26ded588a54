"""Load: nothing before its time, no more at once than allowed, and nothing after the end."""

from __future__ import annotations

import asyncio
import time

import pytest

from graphopt.bench.load import Planned, run_load
from graphopt.bench.outcome import Outcome


class Asked:
    """A server that takes a given time, and notes how many ask at once."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.now = self.most = 0
        self.prompts: list[str] = []

    async def __call__(self, prompt: str, prompt_tokens: int, output_tokens: int) -> Outcome:
        self.prompts.append(prompt)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.takes_s)
        self.now -= 1
        return Outcome(prompt_tokens=prompt_tokens, output_tokens=output_tokens, status=200)


def plan(*times: float) -> list[Planned]:
    return [Planned(at_s, f"p{number}", number, 5) for number, at_s in enumerate(times)]


def test_every_request_is_sent_once_and_in_order() -> None:
    ask, ended = Asked(0.0), []
    outcomes, effort = asyncio.run(run_load(ask, plan(0, 0, 0, 0, 0), on_end=ended.append))
    assert ask.prompts == ["p0", "p1", "p2", "p3", "p4"]
    assert [one.prompt_tokens for one in outcomes] == [0, 1, 2, 3, 4]
    assert len(ended) == 5
    assert effort.wall_s > 0


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_at_once_than_allowed(most: int) -> None:
    ask = Asked(0.002)
    asyncio.run(run_load(ask, plan(*[0.0] * 12), max_concurrency=most))
    assert ask.most == most
    assert len(ask.prompts) == 12


def test_without_a_limit_all_are_under_way() -> None:
    ask = Asked(0.05)
    asyncio.run(run_load(ask, plan(*[0.0] * 12)))
    assert ask.most == 12


def test_nothing_is_sent_before_its_time() -> None:
    times = (0.0, 0.03, 0.06)
    outcomes, effort = asyncio.run(run_load(Asked(0.0), plan(*times)))
    for one, at_s in zip(outcomes, times, strict=True):
        assert one.sent_s >= at_s
        assert one.late_s >= 0
    assert effort.wall_s >= 0.06
    assert effort.lags_s


def test_nothing_is_sent_after_the_end() -> None:
    ask = Asked(0.0)
    outcomes, _ = asyncio.run(run_load(ask, plan(0.0, 0.01, 60.0, 61.0), duration_s=5.0))
    assert len(outcomes) == 2
    ask = Asked(0.02)
    outcomes, _ = asyncio.run(run_load(ask, plan(*[0.0] * 500), max_concurrency=1, duration_s=0.1))
    assert 1 <= len(outcomes) < 50
    assert len(ask.prompts) == len(outcomes)


def test_a_busy_loop_is_noticed() -> None:
    async def blocking(prompt: str, prompt_tokens: int, output_tokens: int) -> Outcome:
        await asyncio.sleep(0.02)
        time.sleep(0.15)
        await asyncio.sleep(0.03)
        return Outcome()

    _, effort = asyncio.run(run_load(blocking, plan(0.0)))
    assert max(effort.lags_s) > 0.05


def test_an_error_stops_the_others() -> None:
    async def broken(prompt: str, prompt_tokens: int, output_tokens: int) -> Outcome:
        if prompt == "p1":
            raise RuntimeError("a defect")
        await asyncio.sleep(30)
        return Outcome()

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="a defect"):
        asyncio.run(run_load(broken, plan(0.0, 0.0, 0.0)))
    assert time.monotonic() - began < 20


def test_no_requests_at_all() -> None:
    assert asyncio.run(run_load(Asked(0.0), []))[0] == []
