"""Chunks of completions: prebuilt bytes are the JSON that they stand for."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.runtime.server.completion_chunks import CompletionChunks
from graphopt.runtime.server.http_errors import ApiError
from graphopt.runtime.server.protocol.completions import Completion, CompletionRequest
from graphopt.runtime.server.text_stream import Piece
from graphopt.runtime.server.token_texts import TokenTexts

from .fake_engine import TOKENIZER


def _chunks(echoes: tuple[str, ...] = ("",), samples: int = 1, **fields: Any) -> CompletionChunks:
    asked: Any = SimpleNamespace(
        id="cmpl-1",
        prompts=[None] * len(echoes),
        params=SimpleNamespace(n=samples),
        prompt_tokens=3,
        completion_tokens=2,
        cached_tokens=1,
    )
    body = CompletionRequest.model_validate({"prompt": "a", **fields})
    return CompletionChunks(asked, body, 'the "model"', TokenTexts(TOKENIZER), list(echoes))


def _read(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(one[6:]) for one in data.decode().split("\n\n") if one != ""]


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), st.booleans())
def test_the_plain_chunk_is_what_the_long_way_gives(text: str, usage: bool) -> None:
    options = {"stream_options": {"include_usage": usage}}
    chunks = _chunks(samples=2, **options)
    piece = Piece(0, 1, text, (5,), [0])
    (found,) = _read(chunks.pieces([piece]))
    (expected,) = _read(chunks._whole(1, piece))
    assert found == expected
    Completion.model_validate(found)
    assert found["choices"][0]["text"] == text


def test_pieces_that_piled_up_are_one_write() -> None:
    chunks = _chunks(samples=2)
    pieces = [Piece(0, 0, "a", (5,), [0]), Piece(0, 1, "", (6,), [0]), Piece(0, 1, "b", (7,), [0])]
    found = _read(chunks.pieces(pieces))
    assert [(one["choices"][0]["index"], one["choices"][0]["text"]) for one in found] == [
        (0, "a"),
        (1, "b"),
    ]
    assert chunks.pieces([Piece(0, 0, "", (5,), [0])]) == b""


def test_an_end_is_told_even_without_text() -> None:
    (found,) = _read(_chunks().pieces([Piece(0, 0, "", (0,), [0], None, "stop", "x")]))
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["choices"][0]["stop_reason"] == "x"


def test_prompts_are_echoed_first_for_each_sample() -> None:
    found = _read(_chunks(("a", "", "c"), 2).begin())
    assert [(one["choices"][0]["index"], one["choices"][0]["text"]) for one in found] == [
        (0, "a"),
        (1, "a"),
        (4, "c"),
        (5, "c"),
    ]


@pytest.mark.parametrize("usage", [True, False])
def test_the_end(usage: bool) -> None:
    data = _chunks(stream_options={"include_usage": usage}).end()
    assert data.endswith(b"data: [DONE]\n\n")
    if usage:
        (found,) = _read(data.removesuffix(b"data: [DONE]\n\n"))
        assert found["choices"] == []
        assert found["usage"]["total_tokens"] == 5
        assert found["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    else:
        assert data == b"data: [DONE]\n\n"


def test_an_error_is_an_event_and_the_end() -> None:
    data = _chunks().error(ApiError(500, "it broke", type="server_error"))
    assert data.endswith(b"data: [DONE]\n\n")
    assert b'"it broke"' in data
