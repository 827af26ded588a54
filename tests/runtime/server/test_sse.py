"""Events: bytes as clients expect them, and streams that end with their client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request

from graphopt.runtime.server.http_errors import ClientGoneError
from graphopt.runtime.server.sse import ABORT_EXTENSION, EventStream, Reply, drop, event

from .fake_engine import FakeEngine, app_over, ids_of


def test_an_event_is_one_line_of_json() -> None:
    data = {"a": "x\n\u2028y"}
    found = event(data)
    assert found.startswith(b"data: ")
    assert found.endswith(b"\n\n")
    assert found.count(b"\n") == 2
    assert json.loads(found[6:]) == data
    assert event(data, "kind").startswith(b"event: kind\ndata: {")


def _scope(**more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/", "headers": [], **more}


class Client:
    """Reads what an app sends, until it goes away."""

    def __init__(self, stalls_after: int | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.leaves = asyncio.Event()
        self._stalls_after = stalls_after

    async def receive(self) -> dict[str, Any]:
        """Say that it went away, once it did."""
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Take what is sent, as slowly as it likes."""
        self.sent.append(message)
        if self._stalls_after is not None and len(self.sent) > self._stalls_after:
            await asyncio.sleep(60)

    @property
    def body(self) -> bytes:
        """All that came."""
        return b"".join(one.get("body", b"") for one in self.sent)


async def _events(*chunks: bytes, then: float = 0.0) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    await asyncio.sleep(then)


def test_a_stream_is_written_and_closed() -> None:
    async def run() -> None:
        client, closed = Client(), []
        request = Request(_scope(), client.receive)
        stream = await EventStream.start(
            request, _events(b"a", b"b"), lambda: closed.append(1), 5.0, {"x-a": "b"}
        )
        assert closed == []
        await stream(request.scope, client.receive, client.send)
        assert client.body == b"ab"
        assert closed == [1]
        head = dict(client.sent[0]["headers"])
        assert head[b"content-type"] == b"text/event-stream; charset=utf-8"
        assert head[b"x-a"] == b"b"
        assert b"content-length" not in head
        assert client.sent[-1]["more_body"] is False

    asyncio.run(run())


def test_a_client_that_goes_away_ends_the_stream() -> None:
    async def run() -> None:
        client, closed = Client(), []
        request = Request(_scope(), client.receive)
        stream = await EventStream.start(
            request, _events(b"a", then=60), lambda: closed.append(1), 5.0
        )
        running = asyncio.ensure_future(stream(request.scope, client.receive, client.send))
        await asyncio.sleep(0.01)
        client.leaves.set()
        await asyncio.wait_for(running, 1)
        assert closed == [1]

    asyncio.run(run())


def test_a_client_that_goes_away_before_the_first_event_is_noticed_too() -> None:
    async def run() -> None:
        client, closed = Client(), []
        client.leaves.set()
        with pytest.raises(ClientGoneError):
            await EventStream.start(
                Request(_scope(), client.receive), _events(then=60), lambda: closed.append(1), 5.0
            )
        assert closed == [1]

    asyncio.run(run())


def test_what_fails_before_the_first_event_is_raised() -> None:
    async def fails() -> AsyncIterator[bytes]:
        raise KeyError("x")
        yield b""

    async def run() -> None:
        client, closed = Client(), []
        with pytest.raises(KeyError):
            await EventStream.start(
                Request(_scope(), client.receive), fails(), lambda: closed.append(1), 5.0
            )
        assert closed == [1]

    asyncio.run(run())


@pytest.mark.parametrize("stalls_after", [1, 2, 3])
def test_a_client_that_does_not_read_is_dropped(stalls_after: int) -> None:
    async def run() -> None:
        client, closed, dropped = Client(stalls_after), [], []
        scope = _scope(extensions={ABORT_EXTENSION: lambda: dropped.append(1)})
        request = Request(scope, client.receive)
        stream = await EventStream.start(
            request, _events(b"a", b"b", b"c"), lambda: closed.append(1), 0.02
        )
        await asyncio.wait_for(stream(scope, client.receive, client.send), 5)
        assert (closed, dropped) == ([1], [1])

    asyncio.run(run())


def test_a_whole_answer_is_written_in_pieces_to_who_reads_it() -> None:
    async def run() -> None:
        content = bytes(range(256)) * 1000
        client = Client()
        await Reply(content, 5.0, {"x-a": "b"})(_scope(), client.receive, client.send)
        assert client.body == content
        assert len(client.sent) == 5
        assert [one.get("more_body") for one in client.sent] == [None, True, True, True, False]
        assert (b"content-length", b"256000") in client.sent[0]["headers"]
        empty = Client()
        await Reply(b"", 5.0)(_scope(), empty.receive, empty.send)
        assert len(empty.sent) == 2
        dropped: list[int] = []
        slow = Client(stalls_after=2)
        scope = _scope(extensions={ABORT_EXTENSION: lambda: dropped.append(1)})
        await asyncio.wait_for(Reply(content, 0.02)(scope, slow.receive, slow.send), 5)
        assert dropped == [1]

    asyncio.run(run())


def test_a_server_that_cannot_drop_connections_is_left_alone() -> None:
    drop(_scope())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_the_engine_drops_what_nobody_waits_for(stream: bool, begun: bool) -> None:
    """Over the whole app: a client goes away, and its requests are aborted within a step."""

    async def run() -> None:
        engine = FakeEngine(text=None)
        app = app_over(engine)
        body = json.dumps({"prompt": ["a", "b"], "stream": stream, "max_tokens": 99}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        client = Client()

        async def receive() -> Any:
            return messages.pop() if messages else await client.receive()

        headers = [(b"content-type", b"application/json")]
        scope = _scope(
            path="/v1/completions", raw_path=b"", query_string=b"", headers=headers, app=app
        )
        running = asyncio.ensure_future(app(scope, receive, client.send))
        while len(engine.asked) < 2:
            await asyncio.sleep(0)
        if begun:
            answer = engine.asked[0]
            answer.play(ids_of(" hello you"))
            while not answer.queue.empty() and answer.queue.qsize() > 1:
                await asyncio.sleep(0)
            answer.ended = None
        await asyncio.sleep(0.01)
        client.leaves.set()
        await asyncio.wait_for(running, 1)
        assert engine.asked[1].aborted
        assert app.state.admission.requests == app.state.admission.queued == 0
        assert bool(client.body) == (stream and begun)

    asyncio.run(run())
