"""Errors as OpenAI's clients expect them: one shape, and the status that says what to do next.

    {"error": {"message": "...", "type": "invalid_request_error", "param": "n", "code": null}}

A message says what was wrong in one line and never repeats more than a few characters of what it
got, so that nobody is answered with the megabytes that he sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from graphopt.errors import (
    CapacityError,
    EngineGoneError,
    GraphoptError,
    OverloadedError,
    RequestError,
    UnsupportedError,
)

from .watch import record_of

INVALID, SERVER, OVERLOADED = "invalid_request_error", "server_error", "overloaded_error"
MAX_MESSAGE_CHARS = 600
RETRY_AFTER_S = 1.0
RESTART_S = 5.0  # about what an engine of a small model takes to load again


class ApiError(HTTPException):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: what is wrong, in one line.
        type: which kind of error it is.
        param: the field at fault.
        code: what a program can tell it by.
        retry_after_s: after how many seconds the request may be sent again.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        named = dict(headers or {})
        if retry_after_s is not None:
            named["retry-after"] = str(max(1, math.ceil(retry_after_s)))
        super().__init__(status, shortened(message), named)
        self.type = type
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The error as JSON's types."""
        error = {"message": self.detail, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """The whole answer."""
        return Response(
            msgspec.json.encode(self.body()),
            self.status_code,
            dict(self.headers or {}),
            "application/json",
        )


class ClientGoneError(Exception):
    """The client went away; nobody is left to answer."""


def shortened(message: str, most: int = MAX_MESSAGE_CHARS) -> str:
    """``message`` on one line, cut if it is long, with nothing that cannot be encoded."""
    line = " ".join(message[: 2 * most].split()).encode("utf-8", "replace").decode()
    return line if len(line) <= most else line[: most - 3] + "..."


def api_error(error: GraphoptError) -> ApiError:
    """The answer to a request that failed with ``error``."""
    parts = [error.what]
    for label, text in (("got", error.got), ("expected", error.expected), ("next", error.next)):
        if text is not None:
            parts.append(f"{label}: {shortened(text, 160)}")
    message = "; ".join(parts)
    if isinstance(error, CapacityError):
        return ApiError(400, message, code="context_length_exceeded")
    if isinstance(error, RequestError):
        return ApiError(400, message)
    if isinstance(error, UnsupportedError):
        return ApiError(400, message, code="unsupported")
    if isinstance(error, OverloadedError):
        return ApiError(
            429, message, type=OVERLOADED, code="overloaded", retry_after_s=RETRY_AFTER_S
        )
    if isinstance(error, EngineGoneError):
        return ApiError(503, message, type=SERVER, code="engine_gone", retry_after_s=RESTART_S)
    return ApiError(500, message, type=SERVER, code="engine_failed")


def refuse(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that makes no sense."""
    return ApiError(400, message, param=param, code=code)


def queue_timeout(seconds: float) -> ApiError:
    """A request that nothing came of in time."""
    return ApiError(
        503,
        f"the request waited for {seconds:g} s and had not begun",
        type=SERVER,
        code="queue_timeout",
        retry_after_s=RETRY_AFTER_S,
    )


def unsupported(param: str, why: str) -> ApiError:
    """A field that is known, and that this server does not do."""
    return ApiError(400, f"{param} is not supported: {why}", param=param, code="unsupported")


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's complaints, with the path of the field that it is about."""
    first = errors[0]
    place = [one for one in first.get("loc", ()) if one != "body"]
    path = shortened(".".join(str(one)[:60] for one in place[:8]), 200)
    message = shortened(str(first.get("msg", "the value is not valid")), 300)
    message = message.removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    kind = str(first.get("type", "invalid"))
    return ApiError(
        400,
        f"{path}: {message}{more}" if path else f"{message}{more}",
        param=path or None,
        code="missing_required_parameter" if kind == "missing" else "invalid_value",
    )


def install(app: FastAPI) -> None:
    """Let every error of ``app`` be answered in the one shape, those of its router too."""

    async def answer(request: Request, error: Exception) -> Response:
        found = _found(error)
        record_of(request.scope).refused(found.status_code, found.detail)
        return found.response()

    for kind in (HTTPException, RequestValidationError, GraphoptError):
        app.add_exception_handler(kind, answer)

    async def gone(request: Request, error: Exception) -> Response:
        record_of(request.scope).disconnected()
        return Response(status_code=499)

    app.add_exception_handler(ClientGoneError, gone)


def _found(error: Exception) -> ApiError:
    """``error`` as an answer."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, GraphoptError):
        return api_error(error)
    if isinstance(error, RequestValidationError):
        return validation_error(error.errors())
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, _sentence(error), headers=error.headers)
    return ApiError(500, "the server failed", type=SERVER)


def _sentence(error: HTTPException) -> str:
    """What Starlette's own answers mean."""
    if error.status_code == 404:
        return "there is no such route; /openapi.json lists those there are"
    if error.status_code == 405:
        return f"the route does not take this method; it takes {(error.headers or {}).get('Allow')}"
    return str(error.detail)
