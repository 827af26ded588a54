"""Prompts of one request: read together, in any order, and closed whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graphopt.errors import EngineGoneError, MachineError, OverloadedError
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.server.admission import Admission
from graphopt.runtime.server.asked import Asked
from graphopt.runtime.server.observer import Observer, Record
from graphopt.runtime.server.prompt_ids import PromptIds
from graphopt.runtime.server.settings import Limits
from graphopt.runtime.server.text_stream import Piece

from .fake_engine import WORDS, FakeAnswer, FakeEngine, ids_of


class Case:
    """A request over a fake engine."""

    def __init__(self, prompts: int = 1, limits: Limits | None = None, **params: Any) -> None:
        self.engine = FakeEngine(text=None)
        self.limits = limits or Limits()
        self.admission = Admission(self.limits)
        self.record: Record = Observer().arrived("POST")
        self.prompts = [PromptIds([5, 6 + one]) for one in range(prompts)]
        self.params = SamplingParams(**{"max_tokens": 99, **params})

    def ask(self) -> Asked:
        """Make it."""
        return Asked(
            self.engine,
            self.admission,
            self.limits,
            self.record,
            "x",
            self.prompts,
            self.params,
            words=WORDS,
            priority=3,
            cache_salt=b"s",
        )


async def _read(asked: Asked) -> list[Piece]:
    return [piece async for pieces in asked.pieces() for piece in pieces]


def _text(pieces: list[Piece], prompt: int, sample: int = 0) -> str:
    return "".join(one.text for one in pieces if (one.prompt, one.sample) == (prompt, sample))


def test_every_prompt_is_a_request_of_its_own() -> None:
    async def run() -> None:
        case = Case(3, n=2)
        asked = case.ask()
        assert [one.id for one in case.engine.asked] == ["x-0", "x-1", "x-2"]
        assert case.admission.queued == 6
        assert case.engine.asked[0].priority == 3
        for number in (2, 0, 1):
            case.engine.asked[number].play(ids_of(f" text {number}"))
        pieces = await _read(asked)
        for number in range(3):
            assert _text(pieces, number, 0) == _text(pieces, number, 1) == f" text {number}"
        assert asked.prompt_tokens == 6
        assert asked.completion_tokens == sum(2 * len(ids_of(f" text {n}")) + 2 for n in range(3))
        asked.close()
        reasons = [one.reasons for one in case.record.generations]
        assert reasons == [("stop", "stop")] * 3
        assert not any(one.aborted for one in case.engine.asked)

    asyncio.run(run())


@pytest.mark.parametrize("prompts", [1, 2])
def test_an_error_of_one_prompt_ends_them_all(prompts: int) -> None:
    async def run() -> None:
        case = Case(prompts)
        asked = case.ask()
        case.engine.asked[-1].queue.put_nowait(MachineError("it burns"))
        with pytest.raises(MachineError):
            await _read(asked)
        asked.close()
        assert all(one.aborted for one in case.engine.asked)
        assert case.admission.queued == 0
        assert {one.reasons for one in case.record.generations} == {("abort",)}

    asyncio.run(run())


def test_an_engine_that_dies_while_it_is_asked_leaves_nothing_behind() -> None:
    class Dies(FakeEngine):
        def submit(self, *given: Any, **named: Any) -> FakeAnswer:
            if self.asked:
                raise EngineGoneError("it died")
            return super().submit(*given, **named)

    case = Case(3)
    case.engine = Dies(text=None)
    with pytest.raises(EngineGoneError):
        asyncio.run(_asking(case))
    assert case.engine.asked[0].aborted
    assert case.admission.queued == 0


async def _asking(case: Case) -> None:
    case.ask()


def test_a_full_queue_asks_nothing() -> None:
    case = Case(3, Limits(max_queued=2))
    with pytest.raises(OverloadedError):
        case.ask()
    assert case.engine.asked == []


def test_the_engine_goes_on_while_a_prompts_scores_are_wanted() -> None:
    async def run() -> None:
        case = Case(1, stop="two", prompt_logprobs=1)
        asked = case.ask()
        case.engine.asked[0].play(ids_of("one two three"))
        pieces = await _read(asked)
        assert _text(pieces, 0) == "one "
        assert not case.engine.asked[0].aborted
        assert asked.prompt_logprobs(0) is not None

    asyncio.run(run())


def test_samples_end_one_by_one_and_the_engine_is_told_at_the_last() -> None:
    async def run() -> None:
        case = Case(1, stop="two", n=2)
        asked = case.ask()
        answer = case.engine.asked[0]
        answer.play(ids_of("one two three"))
        answer.ended = None
        pieces = await _read(asked)
        assert [_text(pieces, 0, sample) for sample in (0, 1)] == ["one ", "one "]
        assert answer.aborted
        assert asked.cached_tokens == 0
        asked.close()
        asked.close()

    asyncio.run(run())
