"""Server-sent events: chunks as bytes, written as they come, to clients that read them.

An event is ``data: {json}`` and an empty line. What has piled up goes out as one write. A client
that does not read for too long loses its connection: the server's buffers are not his.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from .gone import until_gone
from .http_errors import ClientGoneError
from .watch import Receive, Scope, Send, record_of

DONE = b"data: [DONE]\n\n"
ABORT_EXTENSION = "graphopt.abort"  # in a scope's extensions: closes the connection at once
_PIECE_BYTES = 64 << 10
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}

encode = msgspec.json.Encoder().encode


def event(data: Any, name: str | None = None) -> bytes:
    """One event that holds ``data``, of JSON's types."""
    head = b"data: " if name is None else b"event: " + name.encode() + b"\ndata: "
    return head + encode(data) + b"\n\n"


class Written(Response):
    """A response that is written piece by piece.

    Args:
        first: what is written at once.
        rest: what follows.
        close: called when the response ends, however it does.
        max_stall_s: how long the client may leave what was written unread.
        headers: of the answer, its type among them.
    """

    def __init__(
        self,
        first: bytes,
        rest: AsyncIterator[bytes],
        close: Callable[[], None],
        max_stall_s: float,
        headers: dict[str, str],
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._close = close
        self._max_stall_s = max_stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the response."""
        try:
            await until_gone(receive, self._write(scope, send))
        except ClientGoneError:
            record_of(scope).disconnected()
        finally:
            self._close()

    async def _write(self, scope: Scope, send: Send) -> None:
        stall_s = self._max_stall_s
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await _send(send, self._first, True, stall_s)
            async for chunk in self._rest:
                await _send(send, chunk, True, stall_s)
            await _send(send, b"", False, stall_s)
        except TimeoutError as error:
            drop(scope)
            raise ClientGoneError from error


class EventStream(Written):
    """Events, written as they come; arguments are those of ``Written``, and more headers."""

    def __init__(
        self,
        first: bytes,
        rest: AsyncIterator[bytes],
        close: Callable[[], None],
        max_stall_s: float,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(first, rest, close, max_stall_s, {**_HEADERS, **(headers or {})})

    @classmethod
    async def start(
        cls,
        request: Request,
        events: AsyncIterator[bytes],
        close: Callable[[], None],
        max_stall_s: float,
        headers: dict[str, str] | None = None,
    ) -> EventStream:
        """Wait for the first event, so that what fails before it is answered with its status.

        Raises:
            ClientGoneError: the client went away.
            Exception: what ``events`` raises; it is closed then.
        """
        try:
            first = await until_gone(request.receive, _first(events))
        except BaseException:
            close()
            raise
        return cls(first, events, close, max_stall_s, headers)


async def _send(send: Send, body: bytes, more: bool, stall_s: float) -> None:
    """Write, which takes as long as the client leaves unread what was written before.

    Raises:
        TimeoutError: he does not read.
    """
    async with asyncio.timeout(stall_s):
        await send({"type": "http.response.body", "body": body, "more_body": more})


class Reply(Response):
    """A whole answer of JSON, written piece by piece to a client that reads it.

    Args:
        content: the answer.
        max_stall_s: how long the client may leave what was written unread.
        headers: more headers.
    """

    media_type = "application/json"

    def __init__(
        self, content: str | bytes, max_stall_s: float, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, headers=headers)
        self._max_stall_s = max_stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the response."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        body = bytes(self.body)
        try:
            for start in range(0, max(1, len(body)), _PIECE_BYTES):
                more = start + _PIECE_BYTES < len(body)
                await _send(send, body[start : start + _PIECE_BYTES], more, self._max_stall_s)
        except TimeoutError:
            drop(scope)
            record_of(scope).disconnected()


async def _first(events: AsyncIterator[bytes]) -> bytes:
    return await anext(events, b"")


def drop(scope: Scope) -> None:
    """Close a connection at once, with what is not written yet, if its server can."""
    abort = scope.get("extensions", {}).get(ABORT_EXTENSION)
    if abort is not None:
        abort()
