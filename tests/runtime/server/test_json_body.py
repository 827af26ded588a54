"""Bodies: limits of size and time, and JSON without ambiguity."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.json_body import parse_json
from graphopt.runtime.server.settings import Limits

from .fake_engine import FakeEngine, app_over, client_of

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_json_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode(), 64) == value


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too large"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"b": {"a": 1, "a": 2}}', "twice"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "UTF-8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\uDC00": 1}', "surrogate"),
        (b'["x", ["\\ud800x"]]', "surrogate"),
        (b"[" * 65 + b"]" * 65, "nested"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested"),
        (b"[" * 100_000, "nested"),
    ],
)
def test_what_is_not_to_be_trusted_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(ApiError, match=word) as caught:
        parse_json(data, 64)
    assert caught.value.status_code == 400
    assert len(caught.value.detail) < 200


def test_what_is_only_nearly_wrong_is_taken() -> None:
    assert parse_json(b"[" * 64 + b"]" * 64, 64)
    assert parse_json(b'"\\ud83d\\ude00"', 64) == "\U0001f600"
    assert parse_json(b"[" + b"[1]," * 500 + b"[2]]", 64)


async def _post(
    content: Any, limits: Limits | None = None, **headers: str
) -> tuple[int, str, dict[str, str]]:
    async with client_of(app_over(FakeEngine(), limits=limits)) as client:
        named = {"content-type": "application/json", **headers}
        found = await client.post("/tokenize", content=content, headers=named)
        return found.status_code, found.json().get("error", {}).get("code", ""), dict(found.headers)


def test_a_body_may_be_as_long_as_it_is_allowed_and_no_longer() -> None:
    async def pieces(count: int) -> AsyncIterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(count):
            yield b"x" * 10
        yield b'"}'

    limits = Limits(max_body_bytes=114)
    fits, long = b'{"prompt": "' + b"x" * 100 + b'"}', b'{"prompt": "' + b"x" * 101 + b'"}'
    assert asyncio.run(_post(fits, limits))[0] == 200
    status, code, headers = asyncio.run(_post(long, limits))
    assert (status, code, headers["connection"]) == (413, "body_too_large", "close")
    assert asyncio.run(_post(pieces(10), limits))[0] == 200
    assert asyncio.run(_post(pieces(11), limits))[0] == 413
    assert asyncio.run(_post(b"{}", limits, **{"content-length": "9" * 30}))[0] == 413


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    status, _, headers = asyncio.run(_post(slow(), Limits(max_body_s=0.05)))
    assert (status, headers["connection"]) == (408, "close")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "json"])
def test_a_body_has_to_be_called_json(kind: str) -> None:
    found = asyncio.run(_post(b'{"prompt": "a"}', None, **{"content-type": kind}))
    assert found[:2] == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.api+json"])
def test_json_has_several_names(kind: str) -> None:
    assert asyncio.run(_post(b'{"prompt": "a"}', None, **{"content-type": kind}))[0] == 200
