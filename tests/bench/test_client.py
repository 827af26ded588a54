"""The client against a server whose times are known. What is late is never counted as early; how
late a machine under load may be, nobody knows, so upper bounds are wide."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from graphopt.bench.client import Client, Endpoint
from graphopt.bench.outcome import Outcome
from graphopt.errors import MachineError, UsageError

from .fake_server import END, HEAD, FakeServer, Script, answer, decoded, event, plain, text, usage

LATE_S = 5.0
EARLY_S = 0.005  # the server's clock and ours do not read alike


def ask(fake: FakeServer, script: Script, endpoint: Endpoint = "completions") -> Outcome:
    fake.script = script

    async def go() -> Outcome:
        async with Client(fake.url, endpoint) as client:
            return await client.ask("hello", 5, 3)

    return asyncio.run(go())


def test_times_are_those_of_the_server(fake: FakeServer) -> None:
    one = ask(
        fake, [(0, HEAD), (0.1, text("a")), (0.05, text("b")), (0.15, text("c")), (0, usage(7, 3))]
    )
    assert one.ok
    assert one.status == 200
    assert (one.prompt_tokens, one.output_tokens) == (7, 3)
    assert one.ttft_s is not None
    assert 0.1 - EARLY_S <= one.ttft_s < LATE_S
    assert len(one.gaps_s) == 2
    assert 0.2 - 2 * EARLY_S <= sum(one.gaps_s) < LATE_S
    assert one.gaps_s[1] >= 0.1
    assert one.e2e_s >= one.ttft_s + sum(one.gaps_s)
    assert one.tpot_s == pytest.approx(sum(one.gaps_s) / 2)


def test_texts_that_come_together_have_no_gap(fake: FakeServer) -> None:
    one = ask(fake, [(0, HEAD), (0, text("a") + text("b") + text("c") + usage(7, 3))])
    assert one.ok
    assert len(one.gaps_s) == 2
    assert sum(one.gaps_s) < 0.05


def test_a_chat(fake: FakeServer) -> None:
    role = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    said = event({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]})
    one = ask(fake, [(0, HEAD + role), (0.08, said), (0, END)], "chat")
    assert one.ok
    assert one.ttft_s is not None
    assert one.ttft_s >= 0.08 - EARLY_S  # an empty text is none
    assert (one.prompt_tokens, one.output_tokens) == (5, 1)  # without usage: what is known here
    assert fake.asked[0]["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("script", "failure", "words"),
    [
        ([(0, plain(429, {"error": "full"}))], "429", "full"),
        ([(0, plain(500, {}))], "500", "{}"),
        ([(0, HEAD), (0, text("a")), (0, END)], "stream", "broke off"),
        ([(0, HEAD), (0, text("a")), (0, b"")], "stream", "ConnectionResetError"),
        (
            [(0, HEAD), (0, event({"error": {"message": "gone"}})), (0, usage(1, 1))],
            "stream",
            "gone",
        ),
        ([(0, HEAD), (0, event(b"{")), (0, END)], "stream", "not of this protocol"),
        ([(0, b"nonsense\r\n\r\n")], "connection", "HttpParser"),
        ([(0, b"")], "connection", "ConnectionResetError"),
    ],
)
def test_failures_are_told_apart(
    fake: FakeServer, script: Script, failure: str, words: str
) -> None:
    one = ask(fake, script)
    assert not one.ok
    assert one.failure == failure
    assert words in str(one.error)


def test_what_is_sent(fake: FakeServer) -> None:
    async def go(**options: Any) -> dict[str, Any]:
        async with Client(fake.url + "/v1/", **options) as client:
            await client.ask("hello", 5, 3)
            return decoded(client.body("hello", 3))

    sent = asyncio.run(go(api_key="secret", extra={"ignore_eos": True, "max_tokens": 9}))
    assert sent == fake.asked[0] == {
        "model": "tiny", "prompt": "hello", "max_tokens": 9, "stream": True,
        "stream_options": {"include_usage": True}, "ignore_eos": True,
    }  # fmt: skip
    assert {head["authorization"] for head in fake.heads} == {"Bearer secret"}
    asyncio.run(go(model="mine"))
    assert fake.asked[1]["model"] == "mine"
    assert "authorization" not in fake.heads[-1]


def test_events_are_counted(fake: FakeServer) -> None:
    fake.script = answer(4)

    async def go() -> int:
        async with Client(fake.url) as client:
            await asyncio.gather(*(client.ask("a", 1, 1) for _ in range(3)))
            return client.events

    assert asyncio.run(go()) == 15  # four texts and one usage each


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def enter() -> None:
        async with Client(f"http://127.0.0.1:{port}"):
            pass

    with pytest.raises(MachineError, match="does not answer"):
        asyncio.run(enter())

    async def go() -> Outcome:
        async with Client(f"http://127.0.0.1:{port}", model="m") as client:
            return await client.ask("a", 1, 1)

    assert asyncio.run(go()).failure == "connection"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="no URL"):
        Client(url)


@pytest.mark.parametrize("models", [{}, {"data": []}, []])
def test_a_server_without_models_is_refused(fake: FakeServer, models: object) -> None:
    fake.models = models

    async def enter() -> None:
        async with Client(fake.url):
            pass

    with pytest.raises(UsageError, match="names no model"):
        asyncio.run(enter())
