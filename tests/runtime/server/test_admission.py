"""Admission: counts go up and down with what is under way, and no further."""

from __future__ import annotations

import asyncio

import pytest

from graphopt.errors import OverloadedError
from graphopt.runtime.server.admission import Admission
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.settings import Limits

from .fake_engine import FakeEngine, app_over, client_of, post

BODY = {"prompt": "a", "max_tokens": 4}


def test_requests_beyond_the_limit_are_told_to_come_again() -> None:
    admission = Admission(Limits(max_requests=1))
    with admission.request():
        with pytest.raises(ApiError) as caught, admission.request():
            pass
        assert caught.value.status_code == 429
        assert caught.value.headers == {"retry-after": "1"}
    with admission.request():
        assert admission.requests == 1
    assert admission.requests == 0


def test_a_place_in_the_queue_is_left_once() -> None:
    admission = Admission(Limits(max_queued=4))
    place = admission.queue(3)
    with pytest.raises(OverloadedError):
        admission.queue(2)
    other = admission.queue(1)
    place.leave()
    place.leave()
    assert admission.queued == 1
    other.leave()
    assert admission.queued == 0


def test_who_drains_lets_nobody_in_and_waits_for_the_rest() -> None:
    async def run() -> None:
        admission = Admission(Limits())
        with admission.request():
            admission.drain()
            with pytest.raises(ApiError) as caught, admission.request():
                pass
            assert caught.value.status_code == 503
            waiting = asyncio.ensure_future(admission.until_idle())
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 1)

    asyncio.run(run())


def test_a_server_that_answers_enough_refuses_more_and_recovers() -> None:
    async def run() -> None:
        engine = FakeEngine(text=None)
        app = app_over(engine, limits=Limits(max_requests=2))
        async with client_of(app) as client:
            first = [asyncio.ensure_future(client.post("/v1/completions", json=BODY)) for _ in "ab"]
            while len(engine.asked) < 2:
                await asyncio.sleep(0)
            refused = await client.post("/v1/completions", json=BODY)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
            assert (await client.get("/health")).status_code == 200
            for one in engine.asked:
                one.play([5])
            assert [one.status_code for one in await asyncio.gather(*first)] == [200, 200]
            assert app.state.admission.requests == app.state.admission.queued == 0

    asyncio.run(run())


def test_samples_that_wait_are_counted_until_their_first_token() -> None:
    async def run() -> None:
        engine = FakeEngine(text=None)
        app = app_over(engine, limits=Limits(max_queued=4))
        async with client_of(app) as client:
            body = {**BODY, "n": 3}
            first = asyncio.ensure_future(client.post("/v1/completions", json=body))
            while not engine.asked:
                await asyncio.sleep(0)
            assert app.state.admission.queued == 3
            refused = await client.post("/v1/completions", json={**BODY, "n": 2})
            assert refused.status_code == 429
            assert "queue is full" in refused.json()["error"]["message"]
            assert len(engine.asked) == 1
            engine.asked[0].play([5, 6], ends=False)
            assert (await first).status_code == 200
            assert app.state.admission.queued == 0

    asyncio.run(run())


def test_a_request_that_does_not_begin_in_time_is_dropped() -> None:
    engine = FakeEngine(text=None)
    found = post("/v1/completions", BODY, engine, limits=Limits(max_queue_s=0.05))
    assert found.status_code == 503
    assert found.headers["retry-after"] == "1"
    assert found.json()["error"]["code"] == "queue_timeout"
    assert engine.asked[0].aborted


def test_a_stream_that_does_not_begin_in_time_is_no_stream() -> None:
    engine = FakeEngine(text=None)
    body = {**BODY, "stream": True}
    found = post("/v1/completions", body, engine, limits=Limits(max_queue_s=0.05))
    assert found.status_code == 503
    assert engine.asked[0].aborted


def test_a_server_about_to_stop_is_alive_but_not_ready() -> None:
    async def run() -> None:
        app = app_over(FakeEngine())
        app.state.admission.drain()
        async with client_of(app) as client:
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/ready")).status_code == 503
            refused = await client.post("/v1/completions", json=BODY)
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"

    asyncio.run(run())
