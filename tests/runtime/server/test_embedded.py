"""Texts of one request: all handed over, read in order, dropped together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graphopt.errors import EngineGoneError, GraphoptError, MachineError, OverloadedError
from graphopt.runtime.outputs import RequestMetrics
from graphopt.runtime.server.admission import Admission
from graphopt.runtime.server.embedded import Embedded
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.observer import Record
from graphopt.runtime.server.prompt_ids import PromptIds
from graphopt.runtime.server.settings import Limits
from graphopt.runtime.server.wire import Ended

from .fake_engine import FakeEngine, vector

TEXTS = [PromptIds([one, 7], "text") for one in range(300)]


def embedded(engine: FakeEngine, **limits: Any) -> tuple[Embedded, Admission, Record]:
    chosen = Limits(**limits)
    admission, record = Admission(chosen), Record("one")
    made = Embedded(engine, admission, chosen, record, "embd-1", TEXTS, priority=3)
    return made, admission, record


def test_every_text_is_a_request_and_vectors_come_in_order() -> None:
    engine = FakeEngine()

    async def run() -> None:
        one, admission, record = embedded(engine)
        assert admission.queued == 300
        found = await one.vectors()
        assert found == [vector(text.ids).tobytes() for text in TEXTS]
        assert admission.queued == 0
        assert len({answer.id for answer in engine.asked}) == 300
        assert {answer.priority for answer in engine.asked} == {3}
        assert one.tokens == 600
        one.close()
        assert {generation.reasons for generation in record.generations} == {("stop",)}
        assert [generation.prompt_tokens for generation in record.generations] == [2] * 300
        assert not any(answer.aborted for answer in engine.asked)

    asyncio.run(run())


def test_places_are_left_as_vectors_come_and_all_are_dropped_in_the_end() -> None:
    engine = FakeEngine(None)

    async def run() -> None:
        one, admission, record = embedded(engine)
        going = asyncio.ensure_future(one.vectors())
        while len(engine.asked) < 300:
            await asyncio.sleep(0)
        for answer in engine.asked[:5]:
            answer.embed()
        while admission.queued > 295:
            await asyncio.sleep(0)
        going.cancel()
        await asyncio.wait({going})
        one.close()
        assert admission.queued == 0
        assert [answer.aborted for answer in engine.asked] == [False] * 5 + [True] * 295
        assert record.generations[5].reasons == ("abort",)

    asyncio.run(run())


def test_what_fails_fails_the_request() -> None:
    engine = FakeEngine()
    engine.error = MachineError("it burns")

    async def run() -> None:
        with pytest.raises(MachineError, match="burns"):
            await embedded(engine)[0].vectors()
        engine.error, engine.text = None, None
        with pytest.raises(ApiError) as caught:
            await embedded(engine, max_queue_s=0.01)[0].vectors()
        assert (caught.value.status_code, caught.value.code) == (503, "queue_timeout")
        with pytest.raises(OverloadedError):
            embedded(engine, max_queued=299)
        engine.model = None
        with pytest.raises(EngineGoneError):
            await embedded(engine)[0].vectors()

    asyncio.run(run())


def test_an_end_without_a_vector_is_an_error() -> None:
    engine = FakeEngine(None)

    async def run() -> None:
        one, _, _ = embedded(engine)
        going = asyncio.ensure_future(one.vectors())
        while not engine.asked:
            await asyncio.sleep(0)
        engine.asked[0].ended = Ended("x", RequestMetrics(0.0, None, 1.0))
        engine.asked[0].queue.put_nowait(None)
        with pytest.raises(GraphoptError, match="no vector"):
            await going

    asyncio.run(run())
