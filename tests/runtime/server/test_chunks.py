"""What chunks have in common."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from graphopt.runtime.server.chunks import Chunks
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.protocol.common import SamplingFields


def _chunks(options: dict[str, bool] | None = None, has_logprobs: bool = False) -> Chunks:
    asked: Any = SimpleNamespace(id="x-1", prompt_tokens=3, completion_tokens=2, cached_tokens=1)
    body = SamplingFields.model_validate({"stream_options": options})
    made = b',"text":', b',"finish_reason":null'
    return Chunks(asked, body, "kind", 'a "model"', *made, 2, has_logprobs=has_logprobs)


def _read(data: bytes) -> dict[str, Any]:
    assert data.endswith(b"\n\n")
    found: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
    return found


def test_a_plain_chunk_is_whole_json() -> None:
    found = _read(_chunks().plain(1, 'say "x"\n\u2028'))
    assert found.pop("created") > 0
    assert found == {
        "id": "x-1",
        "object": "kind",
        "model": 'a "model"',
        "choices": [{"index": 1, "text": 'say "x"\n\u2028', "finish_reason": None}],
    }


@pytest.mark.parametrize(
    ("options", "usage"),
    [
        (None, "absent"),
        ({"include_usage": True}, None),
        ({"include_usage": True, "continuous_usage_stats": True}, 5),
        ({"continuous_usage_stats": True}, "absent"),
    ],
)
def test_usage_is_where_it_was_asked_for(options: Any, usage: Any) -> None:
    chunks = _chunks(options)
    found = _read(chunks.chunk({"index": 0})).get("usage", "absent")
    assert (found["total_tokens"] if isinstance(found, dict) else found) == usage
    assert chunks.is_plain == (usage != 5)
    if chunks.is_plain:
        assert _read(chunks.plain(0, "")).get("usage", "absent") == usage
    assert (b'"choices":[]' in chunks.end()) == (usage != "absent")


def test_log_probabilities_are_not_plain() -> None:
    assert not _chunks(has_logprobs=True).is_plain


def test_a_stream_ends_with_done_whatever_happened() -> None:
    assert _chunks().end() == b"data: [DONE]\n\n"
    assert _chunks().error(ApiError(500, "x")).endswith(b"data: [DONE]\n\n")
