"""The events of a streamed completion."""

from __future__ import annotations

from typing import Any

from . import logprob_rows
from .answering import now, usage
from .asked import Asked
from .http_errors import ApiError
from .protocol.completions import CompletionRequest
from .sse import DONE, encode, event
from .text_stream import Piece
from .token_texts import TokenTexts

_PLAIN_END = b',"logprobs":null,"finish_reason":null,"stop_reason":null}]'


class CompletionChunks:
    """Writes chunks ``text_completion``; one for each piece that has text, or ends a sample.

    Args:
        asked: what is streamed.
        body: the request.
        name: of the model.
        texts: shows tokens.
        echoes: what comes first of each prompt's samples.
    """

    def __init__(
        self,
        asked: Asked,
        body: CompletionRequest,
        name: str,
        texts: TokenTexts,
        echoes: list[str],
    ) -> None:
        options = body.stream_options
        self._asked = asked
        self._body = body
        self._texts = texts
        self._echoes = echoes
        self._head: dict[str, Any] = {
            "id": asked.id,
            "object": "text_completion",
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
            start + str(index).encode() + b',"text":'
            for index in range(len(asked.prompts) * asked.params.n)
        ]
        self._plain_end = _PLAIN_END + (b',"usage":null' if self._usage else b"") + b"}\n\n"
        self._is_plain = not (
            self._each_usage or body.return_token_ids or body.logprobs is not None
        )

    def begin(self) -> bytes:
        """The echoed prompts."""
        samples = self._asked.params.n
        return b"".join(
            self._starts[index] + encode(self._echoes[index // samples]) + self._plain_end
            for index in range(len(self._starts))
            if self._echoes[index // samples]
        )

    def pieces(self, pieces: list[Piece]) -> bytes:
        """The chunks of what has come."""
        samples = self._asked.params.n
        chunks: list[bytes] = []
        for piece in pieces:
            index = piece.prompt * samples + piece.sample
            if piece.finish_reason is None and self._is_plain:
                if piece.text:
                    chunks += (self._starts[index], encode(piece.text), self._plain_end)
            else:
                chunks.append(self._whole(index, piece))
        return b"".join(chunks)

    def _whole(self, index: int, piece: Piece) -> bytes:
        """A chunk that has more than text."""
        body = self._body
        choice: dict[str, Any] = {
            "index": index,
            "text": piece.text,
            "logprobs": None,
            "finish_reason": piece.finish_reason,
            "stop_reason": piece.stop_reason,
        }
        if body.logprobs is not None:
            base = len(self._echoes[piece.prompt])
            choice["logprobs"] = logprob_rows.legacy(
                piece.logprobs or (),
                piece.token_ids,
                [base + one for one in piece.offsets],
                body.logprobs,
                self._texts,
                body.return_tokens_as_token_ids is True,
            )
        if body.return_token_ids:
            choice["token_ids"] = piece.token_ids
        return event({**self._head, "choices": [choice], **self._usage_now()})

    def _usage_now(self) -> dict[str, Any]:
        if self._each_usage:
            return {"usage": usage(self._asked).model_dump()}
        return {"usage": None} if self._usage else {}

    def end(self) -> bytes:
        """The usage, if it was asked for, and the end."""
        if not self._usage:
            return DONE
        found = usage(self._asked).model_dump()
        return event({**self._head, "choices": [], "usage": found}) + DONE

    def error(self, error: ApiError) -> bytes:
        """An error instead of the rest."""
        return event(error.body()) + DONE
