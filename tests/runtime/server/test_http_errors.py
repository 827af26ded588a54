"""Errors: one shape, the right status, one short line."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.errors import (
    CapacityError,
    DisagreementError,
    EngineGoneError,
    GraphoptError,
    MachineError,
    OverloadedError,
    RequestError,
    UnsupportedError,
)
from graphopt.runtime.server.http_errors import (
    MAX_MESSAGE_CHARS,
    ApiError,
    api_error,
    shortened,
    unsupported,
    validation_error,
)

from .fake_engine import FakeEngine, get, post


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RequestError("no"), 400, None),
        (CapacityError("no"), 400, "context_length_exceeded"),
        (UnsupportedError("no"), 400, "unsupported"),
        (OverloadedError("no"), 429, "overloaded"),
        (EngineGoneError("no"), 503, "engine_gone"),
        (MachineError("no"), 500, "engine_failed"),
        (DisagreementError("no"), 500, "engine_failed"),
    ],
)
def test_each_kind_of_error_has_its_status(
    error: GraphoptError, status: int, code: str | None
) -> None:
    found = api_error(error)
    assert (found.status_code, found.code) == (status, code)
    assert ("retry-after" in (found.headers or {})) == (status in (429, 503))


def test_an_error_of_the_engine_reaches_the_client_in_one_line() -> None:
    engine = FakeEngine()
    engine.error = RequestError("it is wrong", got="a\nb", expected="c", next="do d")
    found = post("/v1/completions", {"prompt": "a"}, engine)
    assert found.status_code == 400
    assert found.json() == {
        "error": {
            "message": "it is wrong; got: a b; expected: c; next: do d",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    }


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": "a", "max_tokens": "4"}, "max_tokens", "invalid_value"),
        ({"prompt": "a", "stream_options": {"include_usage": 1}}, None, "invalid_value"),
        ([], None, "invalid_value"),
        ("text", None, "invalid_value"),
        ({"prompt": "x" * 1_000_000, "n": "y" * 1_000_000}, "n", "invalid_value"),
    ],
)
def test_what_is_not_valid_is_told_briefly_with_its_field(
    body: Any, param: str | None, code: str
) -> None:
    found = post("/v1/completions", body)
    assert found.status_code == 400
    error = found.json()["error"]
    assert error["code"] == code
    assert param is None or error["param"] == param
    assert len(found.content) < 1000


def test_routes_and_methods_that_are_not_there() -> None:
    missing = get("/v2/completions")
    assert missing.status_code == 404
    assert "no such route" in missing.json()["error"]["message"]
    wrong = get("/v1/completions")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert "POST" in wrong.json()["error"]["message"]


def test_a_message_is_short_and_can_be_encoded() -> None:
    assert len(shortened("x" * 10_000)) == MAX_MESSAGE_CHARS
    assert shortened("a\ud800\n b") == "a? b"
    error = ApiError(429, "x", retry_after_s=0.2, headers={"x-a": "b"})
    assert error.headers == {"retry-after": "1", "x-a": "b"}


def test_a_field_that_is_not_supported_is_named() -> None:
    error = unsupported("suffix", "because")
    assert error.body()["error"] == {
        "message": "suffix is not supported: because",
        "type": "invalid_request_error",
        "param": "suffix",
        "code": "unsupported",
    }


def test_the_path_of_a_field_is_short_whatever_its_names_are() -> None:
    loc = ("body", "a" * 1000, *range(50))
    error = validation_error([{"loc": loc, "msg": "Value error, no", "type": "x"}, {}])
    assert error.detail.endswith(": no (and 1 more)")
    assert len(error.detail) < 300


def test_a_fault_of_the_server_is_no_riddle() -> None:
    class Broken(FakeEngine):
        def submit(self, *given: Any, **named: Any) -> Any:
            raise GraphoptError("it broke")

    found = post("/v1/completions", {"prompt": "a"}, Broken())
    assert found.status_code == 500
    assert found.json()["error"]["type"] == "server_error"
