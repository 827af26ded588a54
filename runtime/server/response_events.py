"""The answers of ``/v1/responses``, whole and as typed events of a stream.

An answer is a list of items, messages and calls of functions, in the order in which the model wrote
them. A whole answer is what the events of a stream add up to.
"""

from __future__ import annotations

from typing import Any

from graphopt.errors import GraphoptError

from ..outputs import LENGTH
from . import logprob_rows
from .answering import now
from .asked import Asked
from .http_errors import ApiError
from .protocol.chat import TokenLogprob
from .protocol.responses import (
    InputDetails,
    OutputCall,
    OutputDetails,
    OutputMessage,
    OutputText,
    ResponseObject,
    ResponsesRequest,
    ResponsesUsage,
)
from .sse import encode, event
from .text_stream import Piece
from .token_texts import TokenTexts
from .tool_calls import Tools

LOGPROBS = "message.output_text.logprobs"
COMPLETED, INCOMPLETE, FAILED, IN_PROGRESS = "completed", "incomplete", "failed", "in_progress"


class ResponseEvents:
    """Writes events; each has a number and is named by its type.

    Args:
        asked: what is answered.
        body: the request.
        name: of the model.
        texts: shows tokens.
        tools: what may be called.
    """

    def __init__(
        self,
        asked: Asked,
        body: ResponsesRequest,
        name: str,
        texts: TokenTexts,
        tools: Tools | None = None,
    ) -> None:
        self._asked = asked
        self._body = body
        self._name = name
        self._texts = texts
        self._created = now()
        self._reader = None if tools is None else tools.reader()
        self._has_logprobs = LOGPROBS in (body.include or ())
        self._items: list[OutputMessage | OutputCall] = []
        self._part: OutputText | None = None  # of the last item, if that is a message
        self._called: OutputCall | None = None  # the last item, if that is a call
        self._rows: list[dict[str, Any]] = []  # of tokens whose text has not come yet
        self._status = IN_PROGRESS
        self._number = 0
        self._delta = b""

    def begin(self) -> bytes:
        """The answer begins, and so does its message if it can be nothing else."""
        response = self.answer().model_dump()
        head = self._event("response.created", response=response)
        head += self._event("response.in_progress", response=response)
        return head if self._reader is not None else head + self._begin_message()[0]

    def pieces(self, pieces: list[Piece]) -> bytes:
        """What the pieces add."""
        return b"".join(self._piece(piece) for piece in pieces)

    def end(self) -> bytes:
        """Everything that began is done."""
        chunks = b"" if self._items else self._begin_message()[0]
        if self._status == IN_PROGRESS:
            self._status = COMPLETED
        chunks += self._end_item(self._status)
        return chunks + self._event(f"response.{self._status}", response=self.answer().model_dump())

    def error(self, error: ApiError) -> bytes:
        """The answer has failed."""
        self._status = FAILED
        return self._event("response.failed", response=self.answer(error).model_dump())

    def answer(self, error: ApiError | None = None) -> ResponseObject:
        """The answer as it is now."""
        asked, body, status = self._asked, self._body, self._status
        return ResponseObject(
            id=asked.id,
            created_at=self._created,
            status=status,
            error=None if error is None else {"code": "server_error", "message": error.detail},
            incomplete_details={"reason": "max_output_tokens"} if status == INCOMPLETE else None,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            model=self._name,
            output=list(self._items),
            parallel_tool_calls=body.parallel_tool_calls is not False,
            temperature=asked.params.temperature,
            text={"format": (body.text and body.text.format) or {"type": "text"}},
            tool_choice="auto" if body.tool_choice is None else body.tool_choice,
            tools=list(body.tools or ()),
            top_logprobs=body.top_logprobs or 0,
            top_p=asked.params.top_p,
            usage=None if status == IN_PROGRESS else self._usage(),
        )

    def _usage(self) -> ResponsesUsage:
        asked = self._asked
        prompt, completion = asked.prompt_tokens, asked.completion_tokens
        return ResponsesUsage(
            input_tokens=prompt,
            input_tokens_details=InputDetails(cached_tokens=asked.cached_tokens),
            output_tokens=completion,
            output_tokens_details=OutputDetails(),
            total_tokens=prompt + completion,
        )

    def _piece(self, piece: Piece) -> bytes:
        if self._has_logprobs and piece.logprobs:
            most = self._body.top_logprobs or 0
            self._rows += logprob_rows.chat(piece.logprobs, most, self._texts)
        if piece.finish_reason is not None:
            self._status = INCOMPLETE if piece.finish_reason == LENGTH else COMPLETED
        if self._reader is None:
            return self._text(piece.text) if piece.text else b""
        deltas = self._reader.push(piece.text)
        if piece.finish_reason is not None:
            deltas += self._reader.finish()
        return b"".join(
            self._text(one["content"]) if "content" in one else self._call(one["tool_calls"][0])
            for one in deltas
        )

    def _text(self, text: str) -> bytes:
        """More of a message."""
        head, part = b"", self._part
        if part is None:
            head = self._end_item(COMPLETED)
            begun, part = self._begin_message()
            head += begun
        part.text += text
        rows = self._take_rows(part)
        number, self._number = self._number, self._number + 1
        return b"".join(
            (
                head,
                b"event: response.output_text.delta\ndata: ",
                self._delta,
                b',"type":"response.output_text.delta","logprobs":',
                encode(rows) if rows else b"[]",
                b',"sequence_number":',
                str(number).encode(),
                b',"delta":',
                encode(text),
                b"}\n\n",
            )
        )

    def _call(self, delta: dict[str, Any]) -> bytes:
        """The beginning of a call, or more of its arguments."""
        function = delta["function"]
        if "id" in delta:
            self._rows = []  # what stands around a call is no message's
            chunks = self._end_item(COMPLETED)
            self._called, self._part = self._new_call(delta["id"], function["name"]), None
            return chunks + self._begin_item(self._called)
        if self._called is None:
            raise GraphoptError("arguments without a call", got=function["arguments"])
        self._called.arguments += function["arguments"]
        return self._event(
            "response.function_call_arguments.delta",
            item_id=self._called.id,
            output_index=len(self._items) - 1,
            delta=function["arguments"],
        )

    def _new_call(self, call_id: str, name: str) -> OutputCall:
        item_id = call_id.replace("call", "fc", 1)
        return OutputCall(id=item_id, call_id=call_id, name=name, arguments="", status=IN_PROGRESS)

    def _begin_message(self) -> tuple[bytes, OutputText]:
        number = f"-{len(self._items)}" if self._items else ""
        name = self._asked.id.replace("resp", "msg", 1) + number
        item, part = OutputMessage(id=name, status=IN_PROGRESS, content=[]), OutputText(text="")
        chunks = self._begin_item(item)
        place = self._place(item)
        self._delta = encode(place)[:-1]
        chunks += self._event("response.content_part.added", **place, part=part.model_dump())
        item.content.append(part)
        self._part, self._called = part, None
        return chunks, part

    def _begin_item(self, item: OutputMessage | OutputCall) -> bytes:
        self._items.append(item)
        return self._event(
            "response.output_item.added",
            output_index=len(self._items) - 1,
            item=item.model_dump(),
        )

    def _end_item(self, status: str) -> bytes:
        """The last item is done, if there is one."""
        if not self._items:
            return b""
        item, index = self._items[-1], len(self._items) - 1
        item.status = status
        if isinstance(item, OutputCall):
            chunks = self._event(
                "response.function_call_arguments.done",
                item_id=item.id,
                output_index=index,
                name=item.name,
                arguments=item.arguments,
            )
        else:
            (part,), place = item.content, self._place(item)
            self._take_rows(part)
            shown = part.model_dump()
            text = {"text": part.text, "logprobs": shown["logprobs"]}
            chunks = self._event("response.output_text.done", **place, **text)
            chunks += self._event("response.content_part.done", **place, part=shown)
        return chunks + self._event(
            "response.output_item.done", output_index=index, item=item.model_dump()
        )

    def _take_rows(self, part: OutputText) -> list[dict[str, Any]]:
        """Give a message the log-probabilities that wait; returns them."""
        rows, self._rows = self._rows, []
        part.logprobs += [TokenLogprob.model_validate(row) for row in rows]
        return rows

    def _place(self, item: OutputMessage) -> dict[str, Any]:
        """Where the text of the last item is."""
        return {"item_id": item.id, "output_index": len(self._items) - 1, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        found = event({"type": kind, "sequence_number": self._number, **fields}, kind)
        self._number += 1
        return found
