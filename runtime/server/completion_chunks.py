"""The events of a streamed completion."""

from __future__ import annotations

from typing import Any

from . import logprob_rows
from .asked import Asked
from .chunks import Chunks
from .protocol.completions import CompletionRequest
from .text_stream import Piece
from .token_texts import TokenTexts

_AFTER = b',"logprobs":null,"finish_reason":null,"stop_reason":null'


class CompletionChunks(Chunks):
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
        self._samples = asked.params.n
        super().__init__(
            asked,
            body,
            "text_completion",
            name,
            b',"text":',
            _AFTER,
            len(asked.prompts) * self._samples,
            has_logprobs=body.logprobs is not None,
        )
        self._body = body
        self._texts = texts
        self._echoes = echoes

    def begin(self) -> bytes:
        """The echoed prompts."""
        echoes = [self._echoes[index // self._samples] for index in range(len(self.starts))]
        return b"".join(self.plain(index, text) for index, text in enumerate(echoes) if text)

    def pieces(self, pieces: list[Piece]) -> bytes:
        """The chunks of what has come."""
        chunks: list[bytes] = []
        for piece in pieces:
            index = piece.prompt * self._samples + piece.sample
            if piece.finish_reason is not None or not self.is_plain:
                chunks.append(self._whole(index, piece))
            elif piece.text:
                chunks.append(self.plain(index, piece.text))
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
        return self.chunk(choice)
