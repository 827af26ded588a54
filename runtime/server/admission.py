"""Who is let in: how many requests are answered at once, and how many samples may wait.

Whoever is turned away is told so before any work was done for him, and after how many seconds to
come again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from graphopt.errors import OverloadedError

from .http_errors import OVERLOADED, RETRY_AFTER_S, SERVER, ApiError
from .settings import Limits
from .watch import App, Receive, Scope, Send, record_of


class Admission:
    """Counts what is under way.

    Args:
        limits: how much may be.

    Attributes:
        requests: that are being answered.
        queued: samples that were handed to the engine and wait for their first token, and texts
            that wait for their vector.
        draining: whether new requests are refused, since the server is about to stop.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.requests = 0
        self.queued = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self.draining = True

    async def until_idle(self) -> None:
        """Wait until nothing is being answered."""
        await self._idle.wait()

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request, from its head to the end of its answer.

        Raises:
            ApiError: the server is about to stop (503), or answers too many (429).
        """
        if self.draining:
            raise ApiError(
                503,
                "the server is about to stop",
                type=SERVER,
                code="draining",
                retry_after_s=5,
                headers={"connection": "close"},
            )
        if self.requests >= self._limits.max_requests:
            raise ApiError(
                429,
                f"{self.requests} requests are being answered, and that is the most at once",
                type=OVERLOADED,
                code="overloaded",
                retry_after_s=RETRY_AFTER_S,
            )
        self.requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.requests -= 1
            if self.requests == 0:
                self._idle.set()

    def queue(self, samples: int) -> Place:
        """A place in the queue for samples of one request.

        Raises:
            OverloadedError: the queue is full.
        """
        if self.queued + samples > self._limits.max_queued:
            raise OverloadedError(
                "the queue is full",
                got=f"{self.queued} samples wait, and {samples} more came",
                expected=f"at most {self._limits.max_queued}",
            )
        self.queued += samples
        return Place(self, samples)


class Place:
    """Places in the queue, left when the first token came, the vector, or the request's end."""

    def __init__(self, admission: Admission, samples: int) -> None:
        self._admission = admission
        self._samples = samples

    def leave(self, samples: int | None = None) -> None:
        """So many places are free again, or all that are left; may be called again."""
        leaving = self._samples if samples is None else min(samples, self._samples)
        self._admission.queued -= leaving
        self._samples -= leaving


class Gate:
    """An ASGI layer that admits requests which make work: all that are posted.

    Args:
        app: the app inside.
        admission: counts them.
    """

    def __init__(self, app: App, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with 429 or 503."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            with self._admission.request():
                await self._app(scope, receive, send)
        except ApiError as error:
            record_of(scope).refused(error.status_code, error.detail)
            await error.response()(scope, receive, send)
