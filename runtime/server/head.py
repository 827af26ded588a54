"""``HEAD``: whatever can be asked for with GET is described without its body."""

from __future__ import annotations

from .watch import App, Message, Receive, Scope, Send


class Head:
    """An ASGI layer that answers HEAD as GET, and leaves the body out; added to the app first.

    Args:
        app: the app inside, which need not know the method.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        inner = {**scope, "method": "GET"}
        try:
            await self._app(inner, receive, without_body)
        finally:
            scope["route"] = inner.get("route")  # for who tells of the request
