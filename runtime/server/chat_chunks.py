"""The events of a streamed answer to a conversation."""

from __future__ import annotations

from typing import Any

from . import logprob_rows
from .asked import Asked
from .chunks import Chunks
from .protocol.chat import ChatRequest
from .text_stream import Piece
from .token_texts import TokenTexts
from .tool_calls import Tools

_BEFORE, _AFTER = b',"delta":{"content":', b'},"logprobs":null,"finish_reason":null'


class ChatChunks(Chunks):
    """Writes chunks ``chat.completion.chunk``: the role, then what each piece adds.

    Args:
        asked: what is streamed.
        body: the request.
        name: of the model.
        texts: shows tokens.
        tools: what may be called.
    """

    def __init__(
        self,
        asked: Asked,
        body: ChatRequest,
        name: str,
        texts: TokenTexts,
        tools: Tools | None = None,
    ) -> None:
        super().__init__(
            asked,
            body,
            "chat.completion.chunk",
            name,
            _BEFORE,
            _AFTER,
            asked.params.n,
            has_logprobs=body.logprobs is True,
        )
        self._body = body
        self._texts = texts
        self._readers = None if tools is None else [tools.reader() for _ in self.starts]
        self.is_plain = self.is_plain and tools is None

    def begin(self) -> bytes:
        """A chunk with the role for each sample."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(
            self.chunk({"index": index, "delta": delta, "logprobs": None, "finish_reason": None})
            for index in range(len(self.starts))
        )

    def pieces(self, pieces: list[Piece]) -> bytes:
        """The chunks of what has come."""
        chunks: list[bytes] = []
        for piece in pieces:
            if piece.finish_reason is not None or not self.is_plain:
                chunks.append(self._whole(piece))
            elif piece.text:
                chunks.append(self.plain(piece.sample, piece.text))
        return b"".join(chunks)

    def _whole(self, piece: Piece) -> bytes:
        """Chunks that have more than text; the last of them has all that is not text."""
        deltas, reason = self._deltas(piece)
        body = self._body
        more = reason is not None or body.logprobs or body.return_token_ids
        if self._readers and not more and not deltas:
            return b""  # a call that is not complete
        first = [
            {"index": piece.sample, "delta": one, "logprobs": None, "finish_reason": None}
            for one in deltas[:-1]
        ]
        choice: dict[str, Any] = {
            "index": piece.sample,
            "delta": deltas[-1] if deltas else {},
            "logprobs": None,
            "finish_reason": reason,
        }
        if piece.finish_reason is not None:
            choice["stop_reason"] = piece.stop_reason
        if body.logprobs and piece.logprobs:
            as_ids = body.return_tokens_as_token_ids is True
            rows = logprob_rows.chat(piece.logprobs, body.top_logprobs or 0, self._texts, as_ids)
            choice["logprobs"] = {"content": rows, "refusal": None}
        if body.return_token_ids:
            choice["token_ids"] = piece.token_ids
        return b"".join(self.chunk(one) for one in (*first, choice))

    def _deltas(self, piece: Piece) -> tuple[list[dict[str, Any]], str | None]:
        """What a piece adds, and why the sample ended."""
        if self._readers is None:
            return [{"content": piece.text}] if piece.text else [], piece.finish_reason
        reader = self._readers[piece.sample]
        deltas = reader.push(piece.text)
        if piece.finish_reason is not None:
            deltas += reader.finish()
        return deltas, reader.reason(piece.finish_reason)
