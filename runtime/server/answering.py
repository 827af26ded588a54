"""From a request to its samples: asking the engine, and gathering what it answers."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from graphopt.errors import GraphoptError

from ..outputs import TokenLogprobs
from ..sampling_params import SamplingParams
from .asked import Asked
from .gone import until_gone
from .http_errors import ApiError, api_error, shortened
from .prompt_ids import PromptIds
from .protocol.common import Body, PromptTokensDetails, SamplingFields, Usage
from .service import Service
from .sse import EventStream, Reply
from .text_stream import Piece
from .watch import record_of

WARNING_HEADER = "x-graphopt-warning"
log = logging.getLogger("graphopt.requests")


@dataclass(slots=True)
class Sample:
    """One sample as a whole.

    Attributes:
        text: up to its stop.
        token_ids: as drawn, a stop token included.
        offsets: for each token, how many characters of the text lie before it.
        logprobs: of the tokens; empty if they were not asked for.
        finish_reason: why it ended.
        stop_reason: the stop string or stop token that ended it.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def add(self, piece: Piece) -> None:
        """Make it longer."""
        self.text += piece.text
        self.token_ids += piece.token_ids
        self.offsets += piece.offsets
        self.logprobs += piece.logprobs or ()
        self.finish_reason, self.stop_reason = piece.finish_reason, piece.stop_reason

    @property
    def mean_logprob(self) -> float:
        """What ``best_of`` compares."""
        return sum(one.logprob for one in self.logprobs) / max(1, len(self.logprobs))


class Writer(Protocol):
    """Turns pieces into the events of one API."""

    def begin(self) -> bytes:
        """What comes before the first piece, together with it."""

    def pieces(self, pieces: list[Piece]) -> bytes:
        """Events for what has come; nothing if it is too little to tell."""

    def end(self) -> bytes:
        """What comes after the last piece."""

    def error(self, error: ApiError) -> bytes:
        """The end of a stream that fails in the middle."""


def ask(
    service: Service,
    request: Request,
    prefix: str,
    prompts: Sequence[PromptIds],
    params: SamplingParams,
    body: SamplingFields,
) -> Asked:
    """Hand prompts to the engine.

    Args:
        service: the server.
        request: on whose behalf.
        prefix: of the answer's id, such as ``cmpl``.
        prompts: at least one.
        params: how to sample.
        body: says under which priority, and under which salt prompts may be found again.

    Raises:
        GraphoptError: as ``Asked``.
    """
    return Asked(
        service.client,
        service.admission,
        service.settings.limits,
        record_of(request.scope),
        f"{prefix}-{uuid.uuid4().hex}",
        prompts,
        params,
        words=service.words,
        priority=body.priority or 0,
        cache_salt=service.salt(request, body.cache_salt),
    )


async def gather(request: Request, asked: Asked) -> list[list[Sample]]:
    """All samples of each prompt, once they have ended.

    Raises:
        ClientGoneError: the client went away.
        GraphoptError: the engine failed, or refused the request.
        ApiError: nothing came in time.
    """
    try:
        return await until_gone(request.receive, _gather(asked))
    finally:
        asked.close()


async def _gather(asked: Asked) -> list[list[Sample]]:
    found = [[Sample() for _ in range(asked.params.n)] for _ in asked.prompts]
    async for pieces in asked.pieces():
        for piece in pieces:
            found[piece.prompt][piece.sample].add(piece)
    return found


async def stream(
    service: Service, request: Request, asked: Asked, writer: Writer, body: Body
) -> Response:
    """A response that is written as the samples grow.

    Raises:
        Exception: as ``gather``, if it happens before the first piece.
    """
    return await EventStream.start(
        request,
        _events(request, asked, writer),
        asked.close,
        service.settings.limits.max_stall_s,
        warn(request, body),
    )


async def _events(request: Request, asked: Asked, writer: Writer) -> AsyncIterator[bytes]:
    """What is written; an error after the first event is one more event."""
    begun = False
    try:
        async for pieces in asked.pieces():
            head = b"" if begun else writer.begin()
            begun = True
            chunk = head + writer.pieces(pieces)
            if chunk:
                yield chunk
        head = b"" if begun else writer.begin()
        yield head + writer.end()
    except (GraphoptError, ApiError) as error:
        if not begun:
            raise
        found = error if isinstance(error, ApiError) else api_error(error)
        record_of(request.scope).refused(found.status_code, found.detail)
        yield writer.error(found)


def now() -> int:
    """Seconds since 1970, as answers say when they were made."""
    return int(time.time())


def usage(asked: Asked) -> Usage:
    """What a request took so far."""
    prompt, completion = asked.prompt_tokens, asked.completion_tokens
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=asked.cached_tokens),
    )


def reply(request: Request, body: Body, answer: BaseModel) -> Response:
    """A whole answer."""
    stall_s = request.app.state.settings.limits.max_stall_s
    return Reply(answer.model_dump_json(), stall_s, warn(request, body))


def warn(request: Request, *bodies: Body) -> dict[str, str]:
    """Log that a request has fields that change nothing; returns the header that says so."""
    names = [name for body in bodies for name in body.unknown()]
    if not names:
        return {}
    listed = ", ".join(shortened(name, 60) for name in names[:8])
    if len(names) > 8:
        listed += f" and {len(names) - 8} more"
    text = f"unknown fields change nothing: {listed}"
    log.warning("request %s: %s", record_of(request.scope).id, text)
    return {WARNING_HEADER: "".join(one if " " <= one <= "~" else "?" for one in text)}


def best(samples: Iterable[Sample], count: int) -> list[Sample]:
    """The ``count`` likeliest samples, likeliest first."""
    return sorted(samples, key=lambda one: -one.mean_logprob)[:count]
