"""The outermost layer of the app: gives every HTTP request its id and its record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from .observer import Observer, Record

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def record_of(scope: Scope) -> Record:
    """The record of the request whose ASGI scope this is: ``record_of(request.scope)``.

    An app without ``Watch`` gets one that nobody reads.
    """
    state = scope.setdefault("state", {})
    record = state.get("record")
    if not isinstance(record, Record):
        record = state["record"] = Observer().arrived(scope.get("method", "POST"))
    return record


class Watch:
    """An ASGI layer that tells an observer of every HTTP request; added to the app last.

    Args:
        app: the app inside.
        observer: who is told.
    """

    def __init__(self, app: App, observer: Observer) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"])
        record = self._observer.arrived(
            scope["method"], _text(given, b"x-request-id"), _text(given, b"traceparent")
        )
        scope.setdefault("state", {})["record"] = record
        name = (b"x-request-id", record.id.encode())

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), name]}
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except BaseException as error:
            record.refused(500, f"{type(error).__name__}: {error}")
            raise
        finally:
            record.route = getattr(scope.get("route"), "path", None) or "other"
            self._observer.ended(record)


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
