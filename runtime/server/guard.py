"""HTTP connections that cannot be held for nothing.

uvicorn closes a connection that is idle after an answer. It waits for ever for a request's head,
though, and reads heads of any length; and it accepts as many connections as the system has files.
A connection here has to send each head within some seconds and bytes, counted from when it was
opened or from the first byte after an answer, whatever it dribbles meanwhile. Beyond the most
connections a new one is told to come again, and closed. Bodies and answers are the app's to time.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .http_errors import INVALID, SERVER, ApiError
from .sse import ABORT_EXTENSION

UNREAD_S = 5.0  # how long a connection that was closed may take to be read to its end

_STATUS = {
    408: "408 Request Timeout",
    431: "431 Request Header Fields Too Large",
    503: "503 Service Unavailable\r\nretry-after: 1",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """How much a connection may take.

    Attributes:
        connections: most at once.
        head_s: longest time for a request's head, in seconds.
        head_bytes: longest head.
    """

    connections: int
    head_s: float
    head_bytes: int


class HttpServer(uvicorn.Server):
    """uvicorn, which leaves signals to others: set ``should_exit``."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def guarded(guard: Guard) -> Callable[..., asyncio.Protocol]:
    """What uvicorn makes its connections with."""
    return functools.partial(GuardedProtocol, guard=guard)


class GuardedProtocol(HttpToolsProtocol):
    """A connection that waits for a head only so long."""

    def __init__(self, *args: Any, guard: Guard, **more: Any) -> None:
        super().__init__(*args, **more)
        self._guard = guard
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection in, or turn it away."""
        super().connection_made(transport)
        if len(self.connections) > self._guard.connections:
            self._refuse(503, "there are too many connections")
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a head has to end in time."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if not self._awaits_head() or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > self._guard.head_bytes:
            self._refuse(431, "the head of the request is too long")
        elif self._head_timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        """A request begins; its app may close the connection with what is not written yet."""
        super().on_message_begin()
        extensions: Any = self.scope.setdefault("extensions", {})
        extensions[ABORT_EXTENSION] = self.transport.abort

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, whether its client has read the last answer or not."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(UNREAD_S, self.transport.abort)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._stop_timer()
        self._head_bytes = 0
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._in_body = False
        super().on_message_complete()

    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._guard.head_s, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(408, "the head of the request did not come in time")
        else:
            self.transport.close()

    def _refuse(self, code: int, message: str) -> None:
        """Answer without the app, unless what comes is the rest of an answered request; close."""
        self._stop_timer()
        if not self._in_body:
            error = ApiError(code, message, type=SERVER if code >= 500 else INVALID)
            body = msgspec.json.encode(error.body())
            head = (
                f"HTTP/1.1 {_STATUS[code]}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
