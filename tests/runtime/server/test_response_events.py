"""Typed events: numbered, named, and deltas as bytes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.server.answering import Sample
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.protocol.responses import ResponseObject, ResponsesRequest
from graphopt.runtime.server.response_events import ResponseEvents, status_of
from graphopt.runtime.server.text_stream import Piece


def _events() -> ResponseEvents:
    asked: Any = SimpleNamespace(
        id="resp-1",
        params=SimpleNamespace(temperature=0.5, top_p=1.0),
        prompt_tokens=3,
        completion_tokens=2,
        cached_tokens=1,
    )
    return ResponseEvents(asked, ResponsesRequest.model_validate({"input": "a"}), "m")


def _read(data: bytes) -> list[dict[str, Any]]:
    blocks = data.decode().split("\n\n")
    return [json.loads(one.split("\ndata: ", 1)[1]) for one in blocks if one]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))), max_size=5))
def test_deltas_add_up_and_are_numbered(texts: list[str]) -> None:
    events = _events()
    read = _read(events.begin())
    for text in texts:
        read += _read(events.pieces([Piece(0, 0, text, (5,), [0])]))
    read += _read(events.pieces([Piece(0, 0, "", (0,), [0], None, "stop")]) + events.end())
    assert [one["sequence_number"] for one in read] == list(range(len(read)))
    assert "".join(one.get("delta", "") for one in read) == "".join(texts)
    last = ResponseObject.model_validate(read[-1]["response"])
    assert last.output[0].content[0].text == "".join(texts)
    assert last.status == "completed"
    assert last.usage is not None
    assert last.usage.input_tokens_details.cached_tokens == 1


def test_a_failure_keeps_what_there_was() -> None:
    events = _events()
    events.begin()
    events.pieces([Piece(0, 0, "half", (5,), [0])])
    (found,) = _read(events.error(ApiError(500, "it broke")))
    assert found["type"] == "response.failed"
    assert found["response"]["error"] == {"code": "server_error", "message": "it broke"}
    assert found["response"]["output"][0]["content"][0]["text"] == "half"


def test_length_leaves_an_answer_incomplete() -> None:
    assert status_of(Sample(finish_reason="length")) == "incomplete"
    assert status_of(Sample(finish_reason="stop")) == "completed"
