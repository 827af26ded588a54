"""Connections: kept, found closed, ended by their end, silent, and not of HTTP."""

from __future__ import annotations

import asyncio
import time

import httptools
import pytest

from graphopt.bench.exchange import Exchange

from .fake_server import HEAD, FakeServer, answer, plain

PATH = "/v1/completions"


class Taken:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.parts: list[tuple[bytes, float]] = []

    def __call__(self, data: bytes, now_s: float) -> None:
        self.parts.append((data, now_s))

    @property
    def body(self) -> bytes:
        return b"".join(data for data, _ in self.parts)


def post(
    fake: FakeServer, timeout_s: float = 30.0, scheme: str = "http"
) -> tuple[int, bytes, Taken]:
    async def go() -> tuple[int, bytes, Taken]:
        taken = Taken()
        exchange = Exchange(fake.url.replace("http", scheme), {"x-mine": "1"})
        try:
            status, refusal = await exchange.post(PATH, b"{}", taken, timeout_s)
        finally:
            exchange.close()
        return status, refusal, taken

    return asyncio.run(go())


def test_parts_have_the_times_at_which_they_came(fake: FakeServer) -> None:
    fake.script = answer(3, 0.05, 0.05)
    before = time.perf_counter()
    status, refusal, taken = post(fake)
    assert (status, refusal) == (200, b"")
    assert taken.body.count(b"data: ") == 5
    times = [at for _, at in taken.parts]
    assert times == sorted(times)
    assert times[0] >= before + 0.045
    assert times[-1] - times[0] >= 0.09
    assert fake.heads[0]["x-mine"] == "1"
    assert fake.heads[0]["host"] == fake.url.removeprefix("http://")


def test_refusals_come_apart(fake: FakeServer) -> None:
    fake.script = [(0, plain(429, {"error": "x" * 100_000}))]
    status, refusal, taken = post(fake)
    assert status == 429
    assert refusal.startswith(b'{"error": "xxx')
    assert taken.parts == []


def test_connections_are_kept(fake: FakeServer) -> None:
    async def go() -> None:
        exchange = Exchange(fake.url, {})
        for _ in range(3):
            assert (await exchange.post(PATH, b"{}", Taken(), 30))[0] == 200
        await asyncio.gather(*(exchange.post(PATH, b"{}", Taken(), 30) for _ in range(4)))
        exchange.close()

    asyncio.run(go())
    assert len(fake.asked) == 7
    assert fake.connections <= 4


def test_a_connection_that_was_closed_while_idle_is_no_failure(fake: FakeServer) -> None:
    async def go() -> int:
        exchange = Exchange(fake.url, {})
        # The whole answer says that the connection stays, and then it does not.
        fake.script = [*answer(1), (0.0, b"")]
        statuses = [(await exchange.post(PATH, b"{}", Taken(), 30))[0] for _ in range(3)]
        exchange.close()
        return sum(statuses)

    assert asyncio.run(go()) == 600


def test_an_answer_may_end_with_its_connection(fake: FakeServer) -> None:
    fake.script = [(0, b"HTTP/1.1 200 OK\r\n\r\n"), (0, b"data: "), (0.01, b"[DONE]\n\n"), (0, b"")]
    status, _, taken = post(fake)
    assert (status, taken.body) == (200, b"data: [DONE]\n\n")


@pytest.mark.parametrize("part", [b"", HEAD, HEAD + b"5\r\nab"])
def test_an_answer_that_breaks_off_is_a_failure(fake: FakeServer, part: bytes) -> None:
    fake.script = [(0, part), (0.01, b"")]
    with pytest.raises(ConnectionError):
        post(fake)


def test_silence_ends(fake: FakeServer) -> None:
    fake.script = [(0, HEAD), (60.0, b"")]
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"nothing came for 0\.1 s"):
        post(fake, 0.1)
    assert time.monotonic() - began < 30


def test_a_slow_answer_is_no_silence(fake: FakeServer) -> None:
    fake.script = answer(6, 0.4, 0.4)
    assert post(fake, 2.2)[0] == 200


def test_what_is_no_http(fake: FakeServer) -> None:
    fake.script = [(0, b"hello\r\n\r\n")]
    with pytest.raises(httptools.HttpParserError):
        post(fake)


def test_what_is_no_tls(fake: FakeServer) -> None:
    with pytest.raises(OSError):  # noqa: PT011 (of ssl or of sockets, as the platform likes)
        post(fake, 0.3, "https")
