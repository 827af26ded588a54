"""What the chunks of completions and of chats have in common: their head, usage, and end."""

from __future__ import annotations

from typing import Any

from .answering import now, usage
from .asked import Asked
from .http_errors import ApiError
from .protocol.common import SamplingFields
from .sse import DONE, encode, event


class Chunks:
    """Writes events with one choice each.

    Nearly all chunks of a sample differ in their text alone, so what stands before and after it is
    made once: ``starts[index]``, the text as JSON, ``plain_end``.

    Args:
        asked: what is streamed.
        body: the request.
        kind: what a chunk calls itself.
        name: of the model.
        before: of a choice, what stands between its index and its text, as JSON.
        after: of a choice that goes on, what stands after its text.
        count: of choices.
        has_logprobs: whether chunks hold log-probabilities.

    Attributes:
        is_plain: whether chunks hold nothing but text, unless a sample ends.
    """

    def __init__(
        self,
        asked: Asked,
        body: SamplingFields,
        kind: str,
        name: str,
        before: bytes,
        after: bytes,
        count: int,
        *,
        has_logprobs: bool,
    ) -> None:
        options = body.stream_options
        self._asked = asked
        self._head: dict[str, Any] = {
            "id": asked.id,
            "object": kind,
            "created": now(),
            "model": name,
        }
        self._usage = options is not None and options.include_usage is True
        self._each_usage = (
            self._usage and options is not None and options.continuous_usage_stats is True
        )
        start = b"data: " + encode(self._head)[:-1] + b',"choices":[{"index":'
        self.starts = [start + str(index).encode() + before for index in range(count)]
        self.plain_end = after + b"}]" + (b',"usage":null' if self._usage else b"") + b"}\n\n"
        self.is_plain = not (self._each_usage or body.return_token_ids or has_logprobs)

    def plain(self, index: int, text: str) -> bytes:
        """A chunk of a choice that goes on."""
        return self.starts[index] + encode(text) + self.plain_end

    def chunk(self, choice: dict[str, Any]) -> bytes:
        """A chunk that has more than text."""
        found: dict[str, Any] = {**self._head, "choices": [choice]}
        if self._each_usage:
            found["usage"] = usage(self._asked).model_dump()
        elif self._usage:
            found["usage"] = None
        return event(found)

    def end(self) -> bytes:
        """The usage, if it was asked for, and the end."""
        if not self._usage:
            return DONE
        found = usage(self._asked).model_dump()
        return event({**self._head, "choices": [], "usage": found}) + DONE

    def error(self, error: ApiError) -> bytes:
        """An error instead of the rest."""
        return event(error.body()) + DONE
