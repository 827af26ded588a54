"""Streams: the same events however the bytes are cut."""

from __future__ import annotations

import random

import msgspec
import pytest

from graphopt.bench.events import Event, Stream

BODY = (
    b'data: {"id":"x","choices":[{"index":0,"text":"a","logprobs":null}]}\n\n'
    b': a comment\n\n'
    b'event: message\ndata:{"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"\xc3\xa9"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"delta":{"reasoning_content":"r"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
    b'data: {"error":{"message":"broken"}}\n\n'
    b"data: [DONE]\n\n"
)  # fmt: skip


def read(body: bytes, cuts: list[int]) -> tuple[list[Event], bool]:
    stream, events = Stream(), []
    for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True):
        events += stream.push(body[start:stop])
    return events, stream.done


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_events(newline: bytes) -> None:
    events, done = read(BODY.replace(b"\n", newline), [])
    assert done
    assert [event.has_text for event in events] == [True, False, True, True] + [False] * 3
    assert events[4].choices[0].finish_reason == "stop"
    assert events[5].usage is not None
    assert (events[5].usage.prompt_tokens, events[5].usage.completion_tokens) == (3, 2)
    assert events[6].error == {"message": "broken"}


def test_cuts_change_nothing() -> None:
    whole = read(BODY, [])
    for cut in range(1, len(BODY)):
        assert read(BODY, [cut]) == whole
    rng = random.Random(0)
    for _ in range(50):
        assert read(BODY, sorted(rng.sample(range(1, len(BODY)), 20))) == whole


def test_what_is_not_of_the_protocol_is_an_error() -> None:
    for wrong in (b"data: {\n\n", b'data: {"choices": 3}\n\n', b"data: hello\n\n"):
        with pytest.raises(msgspec.DecodeError):
            Stream().push(wrong)


def test_a_stream_that_breaks_off_is_not_done() -> None:
    stream = Stream()
    assert stream.push(b'data: {"choices"') == []
    assert not stream.done
