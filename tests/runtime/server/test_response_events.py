"""Typed events: numbered, named, and deltas as bytes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.protocol.responses import ResponseObject, ResponsesRequest
from graphopt.runtime.server.response_events import LOGPROBS, ResponseEvents
from graphopt.runtime.server.response_input import offer_of
from graphopt.runtime.server.text_stream import Piece
from graphopt.runtime.server.token_texts import TokenTexts
from graphopt.runtime.server.tool_calls import HERMES, tools_of

from .fake_engine import TOKENIZER, row


def _events(**fields: Any) -> ResponseEvents:
    asked: Any = SimpleNamespace(
        id="resp-1",
        params=SimpleNamespace(temperature=0.5, top_p=1.0),
        prompt_tokens=3,
        completion_tokens=2,
        cached_tokens=1,
    )
    body = ResponsesRequest.model_validate({"input": "a", **fields})
    return ResponseEvents(asked, body, "m", TokenTexts(TOKENIZER), tools_of(offer_of(body), HERMES))


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


@pytest.mark.parametrize(("reason", "status"), [("length", "incomplete"), ("stop", "completed")])
def test_length_leaves_an_answer_incomplete(reason: str, status: str) -> None:
    events = _events()
    events.begin()
    events.pieces([Piece(0, 0, "half", (5,), [0], None, reason)])
    assert _read(events.end())[-1]["type"] == f"response.{status}"
    assert events.answer().status == status
    assert events.answer().output[0].status == status


def test_rows_of_tokens_whose_text_is_late_come_with_it() -> None:
    events = _events(include=[LOGPROBS])
    events.begin()
    assert events.pieces([Piece(0, 0, "", (5,), [0], (row(5, 0),))]) == b""
    (delta,) = _read(events.pieces([Piece(0, 0, "ab", (6,), [0], (row(6, 0),))]))
    assert len(delta["logprobs"]) == 2
    events.pieces([Piece(0, 0, "", (0,), [2], (row(0, 0),), "stop")])
    events.end()
    assert len(events.answer().output[0].content[0].logprobs) == 3


def test_rows_of_a_call_are_no_messages() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    tool = {"type": "function", "name": "f"}
    events = _events(include=[LOGPROBS], tools=[tool])
    events.begin()
    for place, one in enumerate(call + "so"):
        events.pieces([Piece(0, 0, one, (5,), [place], (row(5, 0),))])
    events.end()
    first, second = events.answer().output
    assert first.arguments == "{}"
    assert second.content[0].text == "so"
