"""Connections that send heads slowly, never, or without end."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop

from graphopt.runtime.server.guard import Guard, HttpServer, guarded

HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n"
SLOW = 0.4  # seconds for a head


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers at once, whether the body has come or not; ``/body`` waits for it."""
    if scope["path"] == "/body":
        while (await receive()).get("more_body"):
            pass
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    )
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def _serving(guard: Guard) -> AsyncIterator[tuple[str, int]]:
    config = uvicorn.Config(
        _app,
        http=guarded(guard),  # type: ignore[arg-type]
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=2,
    )
    server = HttpServer(config)
    with socket.create_server(("127.0.0.1", 0)) as one:
        serving = asyncio.create_task(server.serve([one]))
        try:
            yield one.getsockname()
        finally:
            server.should_exit = server.force_exit = True
            await serving


def _check(check: Callable[[tuple[str, int]], Awaitable[None]], **more: Any) -> None:
    guard = Guard(**{"connections": 100, "head_s": SLOW, "head_bytes": 2000, **more})

    async def run() -> None:
        async with _serving(guard) as address:
            await asyncio.wait_for(check(address), 30)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def _whole(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def _answer(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(2)


def test_requests_are_answered_one_after_the_other() -> None:
    async def check(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(3):
            writer.write(HEAD)
            assert (await _answer(reader)).endswith(b"ok")
            await asyncio.sleep(SLOW * 0.6)  # longer in all than a head may take
        writer.close()

    _check(check)


@pytest.mark.parametrize("after_one", [False, True])
@pytest.mark.parametrize("drop", [b"", b"\r\n", b"x"])
def test_a_head_that_never_ends_ends_the_connection(after_one: bool, drop: bytes) -> None:
    """Nothing at all, or a byte from time to time; on a new connection, and after an answer."""

    async def check(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        if after_one:
            writer.write(HEAD)
            await _answer(reader)
        start = time.monotonic()
        if drop != b"\r\n":
            writer.write(b"GET /"[: len(drop) * 5])

        async def dribble() -> None:
            while drop:
                await asyncio.sleep(0.05)
                writer.write(drop)

        dribbling = asyncio.create_task(dribble())
        answer = await _whole(reader)
        dribbling.cancel()
        took_s = time.monotonic() - start
        if drop or not after_one:
            assert SLOW * 0.9 < took_s < 5 * SLOW
        else:
            assert took_s < 5, "uvicorn's own limit for an idle connection"
        if drop == b"x" and answer:
            status, _, _ = answer.partition(b"\r\n\r\n")
            assert status.startswith(b"HTTP/1.1 4")
            assert b"connection: close" in status
        writer.close()

    _check(check)


def test_a_late_head_is_told_so_in_the_usual_shape() -> None:
    async def check(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert "in time" in json.loads(body)["error"]["message"]
        writer.close()

    _check(check)


def test_a_head_has_a_longest() -> None:
    async def check(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.1\r\nx: " + b"y" * 3000)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431 ")
        assert "too long" in json.loads(body)["error"]["message"]
        writer.close()

    _check(check)


def test_a_body_is_no_head() -> None:
    async def check(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(POST.replace(b"/ ", b"/body "))
        for _ in range(10):
            await asyncio.sleep(SLOW / 5)
            writer.write(b"z" * 10000)
        assert (await _answer(reader)).endswith(b"ok")
        writer.write(HEAD)
        assert (await _answer(reader)).endswith(b"ok")
        writer.close()

    _check(check)


def test_the_rest_of_a_request_that_is_answered_already_holds_nothing() -> None:
    async def check(address: tuple[str, int]) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(POST)
        assert (await _answer(reader)).endswith(b"ok")

        async def dribble() -> None:
            while True:
                await asyncio.sleep(0.05)
                writer.write(b"z")

        dribbling = asyncio.create_task(dribble())
        start = time.monotonic()
        assert await _whole(reader) == b"", "no second answer to one request"
        assert time.monotonic() - start < 5 * SLOW
        dribbling.cancel()
        writer.close()

    _check(check)


def test_beyond_the_most_connections_one_is_told_to_come_again() -> None:
    async def check(address: tuple[str, int]) -> None:
        kept = [await asyncio.open_connection(*address) for _ in range(3)]
        for reader, writer in kept:
            writer.write(HEAD)
            await _answer(reader)
        reader, writer = await asyncio.open_connection(*address)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "server_error"
        writer.close()
        kept.pop()[1].close()
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEAD)
        assert (await _answer(reader)).endswith(b"ok"), "one went, and one may come"
        writer.close()
        for _, writer in kept:
            writer.close()

    _check(check, connections=3, head_s=20.0)


def test_many_idle_connections_stop_nobody() -> None:
    async def check(address: tuple[str, int]) -> None:
        idle = [await asyncio.open_connection(*address) for _ in range(90)]
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEAD)
        assert (await _answer(reader)).endswith(b"ok")
        writer.close()
        for reader, writer in idle:
            assert await _whole(reader) == b"", "closed without a word: it asked nothing"
            writer.close()

    _check(check)
