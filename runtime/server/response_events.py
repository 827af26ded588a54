"""The answers of ``/v1/responses``, whole and as typed events of a stream."""

from __future__ import annotations

from typing import Any

from ..outputs import LENGTH
from .answering import Sample, now
from .asked import Asked
from .http_errors import ApiError
from .protocol.responses import (
    InputDetails,
    OutputDetails,
    OutputMessage,
    OutputText,
    ResponseObject,
    ResponsesRequest,
    ResponsesUsage,
)
from .sse import encode, event
from .text_stream import Piece


class ResponseEvents:
    """Writes events; each has a number and is named by its type.

    Args:
        asked: what is answered.
        body: the request.
        name: of the model.
    """

    def __init__(self, asked: Asked, body: ResponsesRequest, name: str) -> None:
        self._asked = asked
        self._body = body
        self._name = name
        self._created = now()
        self._item = asked.id.replace("resp", "msg", 1)
        self._sample = Sample()
        self._number = 0
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        self._delta = encode(place)[:-1]

    def whole(self, status: str, sample: Sample | None, error: ApiError | None = None) -> Any:
        """The answer: with no sample, before there is one."""
        asked, body = self._asked, self._body
        output = [] if sample is None else [self._message(status, sample.text)]
        return ResponseObject(
            id=asked.id,
            created_at=self._created,
            status=status,
            error=None if error is None else {"code": "server_error", "message": error.detail},
            incomplete_details={"reason": "max_output_tokens"} if status == "incomplete" else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            model=self._name,
            output=output,
            temperature=asked.params.temperature,
            top_p=asked.params.top_p,
            usage=None if sample is None else self._usage(),
        )

    def _usage(self) -> ResponsesUsage:
        prompt, completion = self._asked.prompt_tokens, self._asked.completion_tokens
        return ResponsesUsage(
            input_tokens=prompt,
            input_tokens_details=InputDetails(cached_tokens=self._asked.cached_tokens),
            output_tokens=completion,
            output_tokens_details=OutputDetails(),
            total_tokens=prompt + completion,
        )

    def _message(self, status: str, text: str | None) -> OutputMessage:
        content = [] if text is None else [OutputText(text=text)]
        return OutputMessage(id=self._item, status=status, content=content)

    def _event(self, kind: str, **fields: Any) -> bytes:
        found = event({"type": kind, "sequence_number": self._number, **fields}, kind)
        self._number += 1
        return found

    def begin(self) -> bytes:
        """The answer begins, and so do its message and that one's text."""
        response = self.whole("in_progress", None).model_dump()
        return b"".join(
            (
                self._event("response.created", response=response),
                self._event("response.in_progress", response=response),
                self._event(
                    "response.output_item.added",
                    output_index=0,
                    item=self._message("in_progress", None).model_dump(),
                ),
                self._event(
                    "response.content_part.added",
                    **self._place(),
                    part=OutputText(text="").model_dump(),
                ),
            )
        )

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def pieces(self, pieces: list[Piece]) -> bytes:
        """Deltas of the text."""
        chunks: list[bytes] = []
        for piece in pieces:
            self._sample.add(piece)
            if piece.text:
                chunks += (
                    b"event: response.output_text.delta\ndata: ",
                    self._delta,
                    b',"type":"response.output_text.delta","logprobs":[],"sequence_number":',
                    str(self._number).encode(),
                    b',"delta":',
                    encode(piece.text),
                    b"}\n\n",
                )
                self._number += 1
        return b"".join(chunks)

    def end(self) -> bytes:
        """Everything that began is done."""
        text, status = self._sample.text, status_of(self._sample)
        part = OutputText(text=text).model_dump()
        return b"".join(
            (
                self._event("response.output_text.done", **self._place(), text=text, logprobs=[]),
                self._event("response.content_part.done", **self._place(), part=part),
                self._event(
                    "response.output_item.done",
                    output_index=0,
                    item=self._message(status, text).model_dump(),
                ),
                self._event(
                    f"response.{status}", response=self.whole(status, self._sample).model_dump()
                ),
            )
        )

    def error(self, error: ApiError) -> bytes:
        """The answer has failed."""
        response = self.whole("failed", self._sample, error).model_dump()
        return self._event("response.failed", response=response)


def status_of(sample: Sample) -> str:
    """How a response with this sample ended."""
    return "incomplete" if sample.finish_reason == LENGTH else "completed"
