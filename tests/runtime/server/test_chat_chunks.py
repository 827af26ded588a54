"""Chunks of chats: prebuilt bytes are the JSON that they stand for."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.server.chat_chunks import ChatChunks
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.protocol.chat import ChatChunk, ChatRequest
from graphopt.runtime.server.text_stream import Piece
from graphopt.runtime.server.token_texts import TokenTexts

from .fake_engine import TOKENIZER, row


def _chunks(samples: int = 1, **fields: Any) -> ChatChunks:
    asked: Any = SimpleNamespace(
        id="chatcmpl-1",
        params=SimpleNamespace(n=samples),
        prompt_tokens=3,
        completion_tokens=2,
        cached_tokens=1,
    )
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "a"}], **fields})
    return ChatChunks(asked, body, "the model", TokenTexts(TOKENIZER))


def _read(data: bytes) -> list[dict[str, Any]]:
    found = [json.loads(one[6:]) for one in data.decode().split("\n\n") if one != ""]
    for one in found:
        ChatChunk.model_validate(one)
    return found


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), st.booleans())
def test_the_plain_chunk_is_what_the_long_way_gives(text: str, usage: bool) -> None:
    chunks = _chunks(2, stream_options={"include_usage": usage})
    piece = Piece(0, 1, text, (5,), [0])
    (found,) = _read(chunks.pieces([piece]))
    (expected,) = _read(chunks._whole(piece))
    assert found == expected
    assert found["choices"][0]["delta"] == {"content": text}


def test_each_sample_begins_with_its_role() -> None:
    found = _read(_chunks(2).begin())
    assert [one["choices"][0]["index"] for one in found] == [0, 1]
    assert {one["choices"][0]["delta"]["role"] for one in found} == {"assistant"}


def test_log_probabilities_come_with_their_tokens() -> None:
    chunks = _chunks(logprobs=True, top_logprobs=1)
    (found,) = _read(chunks.pieces([Piece(0, 0, "", (75,), [0], (row(75, 1),))]))
    (token,) = found["choices"][0]["logprobs"]["content"]
    assert (token["token"], len(token["top_logprobs"])) == ("h", 1)


def test_usage_in_each_chunk_or_at_the_end() -> None:
    each = _chunks(stream_options={"include_usage": True, "continuous_usage_stats": True})
    (found,) = _read(each.pieces([Piece(0, 0, "a", (5,), [0])]))
    assert found["usage"]["total_tokens"] == 5
    data = each.end()
    assert data.endswith(b"data: [DONE]\n\n")
    assert b'"choices":[]' in data
    assert _chunks().end() == b"data: [DONE]\n\n"


def test_an_error_is_an_event_and_the_end() -> None:
    data = _chunks().error(ApiError(500, "it broke"))
    assert b'"it broke"' in data
    assert data.endswith(b"data: [DONE]\n\n")
