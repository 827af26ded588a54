"""Bodies of requests: read within limits of size and time, and parsed as strictly as JSON is meant.

What parsers disagree about is refused rather than guessed at: keys that come twice, numbers that
are none, numbers no machine type holds, text that is not Unicode, and nesting without end.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from .http_errors import ApiError, ClientGoneError, refuse
from .settings import Limits


def parse_json(data: bytes, max_depth: int) -> Any:
    """The value that ``data`` holds.

    Raises:
        ApiError: it holds none, or one that is not to be trusted; status 400.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"the body is not UTF-8 at byte {error.start}") from error
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_number,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        raise _refused(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except ValueError as error:  # an integer of thousands of digits
        raise _refused("the body holds a number that is too large") from error
    except RecursionError as error:
        raise _too_deep(max_depth) from error
    halves = "\\ud" in text or "\\uD" in text
    if halves or text.count("[") + text.count("{") > max_depth:
        _check(value, max_depth, halves)
    return value


def _refused(message: str) -> ApiError:
    return refuse(message, code="invalid_json")


def _too_deep(max_depth: int) -> ApiError:
    return _refused(f"the body is nested too deeply: at most {max_depth} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = _first_twice([key for key, _ in pairs])
        raise _refused(f"the body holds the key {twice[:60]!a} twice in one object")
    return found


def _first_twice(keys: list[str]) -> str:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return ""


def _no_number(text: str) -> Any:
    raise _refused(f"the body holds {text}, which is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _refused("the body holds a number that is too large")
    return value


def _check(value: Any, max_depth: int, look_at_text: bool) -> None:
    """Refuse what is nested too deeply, and halves of surrogate pairs if there may be any."""
    level: list[Any] = [value]
    for _ in range(max_depth + 1):
        if look_at_text:
            for text in level:
                if isinstance(text, str):
                    _check_text(text)
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return
        below: list[Any] = []
        for item in level:
            below += item.values() if isinstance(item, dict) else item
            if look_at_text and isinstance(item, dict):
                below += item
        level = below
    raise _too_deep(max_depth)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _refused("the body holds half of a surrogate pair, which is no character") from error


class BoundedRequest(Request):
    """A request whose body is read and parsed within limits, which its app carries."""

    async def body(self) -> bytes:
        """All bytes of the body.

        Raises:
            ApiError: it is no JSON by its type, too long, or takes too long.
            ClientGoneError: it never came.
        """
        if not hasattr(self, "_body"):
            limits: Limits = self.app.state.settings.limits
            self._check_head(limits)
            try:
                async with asyncio.timeout(limits.max_body_s):
                    self._body = await self._read(limits.max_body_bytes)
            except TimeoutError as error:
                raise ApiError(
                    408,
                    f"the body took longer than {limits.max_body_s:g} s to arrive",
                    headers={"connection": "close"},
                ) from error
        return self._body

    def _check_head(self, limits: Limits) -> None:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not (
            kind.startswith("application/") and kind.endswith("+json")
        ):
            raise ApiError(
                415,
                "the body has to be JSON: send the header Content-Type: application/json",
                code="unsupported_media_type",
            )
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > limits.max_body_bytes:
            raise _too_long(limits.max_body_bytes)

    async def _read(self, most: int) -> bytes:
        chunks, size = [], 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > most:
                raise _too_long(most)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def json(self) -> Any:
        """The body's value.

        Raises:
            ApiError: as ``body`` and ``parse_json``.
        """
        return parse_json(await self.body(), self.app.state.settings.limits.max_json_depth)


def _too_long(most: int) -> ApiError:
    return ApiError(
        413,
        f"the body is too long: at most {most} bytes",
        code="body_too_large",
        headers={"connection": "close"},
    )


class BoundedRoute(APIRoute):
    """A route that reads its body as ``BoundedRequest`` does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        answer = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await answer(BoundedRequest(request.scope, request.receive, request._send))

        return bounded
