"""Work that stops with its client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graphopt.runtime.server.gone import until_gone
from graphopt.runtime.server.http_errors import ClientGoneError


async def _never() -> Any:
    await asyncio.sleep(60)


async def _gone() -> Any:
    return {"type": "http.disconnect"}


def test_the_result_of_work_is_returned_and_its_error_raised() -> None:
    async def good() -> int:
        return 3

    async def bad() -> int:
        raise KeyError("x")

    assert asyncio.run(until_gone(_never, good())) == 3
    with pytest.raises(KeyError):
        asyncio.run(until_gone(_never, bad()))


def test_work_is_cancelled_and_waited_for_when_the_client_goes() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(1)

    with pytest.raises(ClientGoneError):
        asyncio.run(until_gone(_gone, work()))
    assert ended == [1]


def test_a_body_that_goes_on_is_not_a_farewell() -> None:
    messages = [{"type": "http.request"}, {"type": "http.request"}]

    async def receive() -> Any:
        return messages.pop() if messages else await _never()

    async def work() -> int:
        await asyncio.sleep(0.01)
        return 1

    assert asyncio.run(until_gone(receive, work())) == 1
    assert messages == []


def test_whoever_waits_may_be_cancelled_himself() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(1)

    async def run() -> None:
        task = asyncio.ensure_future(until_gone(_never, work()))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert ended == [1]
