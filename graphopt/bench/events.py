"""What a streamed answer says, read as cheaply as may be: who measures must not be the limit."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct


class Delta(Struct):
    """What is new in a chat."""

    content: str | None = None
    reasoning_content: str | None = None


class Choice(Struct):
    """One sample."""

    text: str | None = None
    delta: Delta | None = None
    finish_reason: str | None = None


class Usage(Struct):
    """How many tokens it was."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Event(Struct):
    """One event of a stream; everything else in it is passed over."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None

    @property
    def has_text(self) -> bool:
        """Whether it brings text."""
        for choice in self.choices:
            delta = choice.delta
            if choice.text or (delta and (delta.content or delta.reasoning_content)):
                return True
        return False


_decode = msgspec.json.Decoder(Event).decode


class Stream:
    """Cuts the body of an answer into events.

    Attributes:
        done: whether the stream said that it is over.
    """

    __slots__ = ("_rest", "done")

    def __init__(self) -> None:
        self._rest = b""
        self.done = False

    def push(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes.

        Raises:
            msgspec.DecodeError: one of them is not JSON, or not of this protocol.
        """
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        events = []
        for block in blocks:
            if not block.startswith(b"data:"):
                block = _data_of(block)
            payload = block[5:].strip()
            if payload == b"[DONE]":
                self.done = True
            elif payload:
                events.append(_decode(payload))
        return events


def _data_of(block: bytes) -> bytes:
    """The first line of data in a block with comments, ids or names of events; else nothing."""
    return next((line for line in block.split(b"\n") if line.startswith(b"data:")), b"")
