"""The events of a streamed answer to a conversation."""

from __future__ import annotations

from typing import Any

from . import logprob_rows
from .answering import now, usage
from .asked import Asked
from .http_errors import ApiError
from .protocol.chat import ChatRequest
from .sse import DONE, encode, event
from .text_stream import Piece
from .token_texts import TokenTexts

_PLAIN_END = b'},"logprobs":null,"finish_reason":null}]'


class ChatChunks:
    """Writes chunks ``chat.completion.chunk``: the role, then what each piece adds.

    Args:
        asked: what is streamed.
        body: the request.
        name: of the model.
        texts: shows tokens.
    """

    def __init__(self, asked: Asked, body: ChatRequest, name: str, texts: TokenTexts) -> None:
        options = body.stream_options
        self._asked = asked
        self._body = body
        self._texts = texts
        self._head: dict[str, Any] = {
            "id": asked.id,
            "object": "chat.completion.chunk",
            "created": now(),
            "model": name,
        }
        self._usage = options is not None and options.include_usage is True
        self._each_usage = (
            self._usage and options is not None and (options.continuous_usage_stats is True)
        )
        # All but the text and its end are the same in every chunk of a sample.
        start = b"data: " + encode(self._head)[:-1] + b',"choices":[{"index":'
        self._starts = [
            start + str(index).encode() + b',"delta":{"content":' for index in range(asked.params.n)
        ]
        self._plain_end = _PLAIN_END + (b',"usage":null' if self._usage else b"") + b"}\n\n"
        self._is_plain = not (self._each_usage or body.return_token_ids or body.logprobs)

    def begin(self) -> bytes:
        """A chunk with the role for each sample."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(
            self._event({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
            for index in range(self._asked.params.n)
        )

    def pieces(self, pieces: list[Piece]) -> bytes:
        """The chunks of what has come."""
        chunks: list[bytes] = []
        for piece in pieces:
            if piece.finish_reason is None and self._is_plain:
                if piece.text:
                    chunks += (self._starts[piece.sample], encode(piece.text), self._plain_end)
            else:
                chunks.append(self._whole(piece))
        return b"".join(chunks)

    def _whole(self, piece: Piece) -> bytes:
        """A chunk that has more than text."""
        body = self._body
        choice: dict[str, Any] = {
            "index": piece.sample,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": None,
            "finish_reason": piece.finish_reason,
        }
        if piece.finish_reason is not None:
            choice["stop_reason"] = piece.stop_reason
        if body.logprobs and piece.logprobs:
            as_ids = body.return_tokens_as_token_ids is True
            rows = logprob_rows.chat(piece.logprobs, body.top_logprobs or 0, self._texts, as_ids)
            choice["logprobs"] = {"content": rows, "refusal": None}
        if body.return_token_ids:
            choice["token_ids"] = piece.token_ids
        return self._event(choice)

    def _event(self, choice: dict[str, Any]) -> bytes:
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
