"""The engine process as the HTTP process sees it: requests out, parts of answers in.

Everything runs in one event loop. No request has a task here: what a step brought is put into the
lists of the answers it belongs to, and whoever waits for one of them is woken. An answer that is
read slowly piles up, and is given at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any, cast

from graphopt.errors import EngineGoneError, GraphoptError, RequestError

from .observer import Observer
from .wire import (
    Abort,
    Close,
    Embed,
    Ended,
    Failed,
    FromEngine,
    Inbox,
    Loading,
    Open,
    Opened,
    Part,
    Progress,
    State,
    Submit,
    ToEngine,
    encode,
)

log = logging.getLogger("graphopt.engine")


class EngineAnswer:
    """One request in the engine; see ``client.Answer``. Read by one reader.

    Args:
        client: who it is asked through.
        request_id: its name there.
    """

    __slots__ = ("_aborted", "_client", "_error", "_over", "_parts", "_waiter", "ended", "id")

    def __init__(self, client: EngineClient, request_id: str) -> None:
        self.id = request_id
        self.ended: Ended | None = None
        self._client = client
        self._parts: list[Part] = []
        self._error: GraphoptError | None = None
        self._aborted = False  # no parts are given out any more
        self._over = False  # nothing comes any more
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> EngineAnswer:
        return self

    async def __anext__(self) -> list[Part]:
        """The parts that have come; waits for one."""
        while not self._parts:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._over:
                raise StopAsyncIteration
            self._waiter = self._client.loop.create_future()
            await self._waiter
        parts, self._parts = self._parts, []
        return parts

    def abort(self) -> None:
        """Drop the request; no parts come any more, and the end once the engine has said so."""
        if not self._over and not self._aborted:
            self._aborted = True
            self._parts.clear()
            self._client.send(Abort(self.id))

    def give(self, part: Part) -> None:
        """Take a part in; for the client."""
        if not self._over and not self._aborted:
            self._parts.append(part)
            self._wake()

    def end(self, error: GraphoptError | None) -> None:
        """Nothing follows; for the client."""
        if not self._over:
            self._over, self._error = True, None if self._aborted else error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Link(asyncio.Protocol):
    """The connection with one engine process.

    Attributes:
        opened: done once the model is loaded, or with the error that prevented it.
        lost: done once nothing can come any more, with what the process said was the matter.
    """

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._inbox = Inbox(FromEngine)
        self._failure: GraphoptError | None = None
        self._transport: asyncio.WriteTransport | None = None
        self.opened: asyncio.Future[Opened] = client.loop.create_future()
        self.lost: asyncio.Future[GraphoptError | None] = client.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The stream is there."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand on every message that is complete."""
        try:
            for message in self._inbox.push(data):
                self._take(message)
        except GraphoptError as error:  # its length is lost, so nothing after it can be read
            self._failure = error
            self.drop()

    def _take(self, message: FromEngine) -> None:
        match message:
            case Progress():
                self._client.progress(message)
            case Loading():
                log.info(
                    "%s%s", message.what, f" {message.done}/{message.total}" * bool(message.total)
                )
            case Opened():
                self._client.serve(self, message)
                self.opened.set_result(message)
            case Failed():
                self._failure = message.error.error()

    def connection_lost(self, error: Exception | None) -> None:
        """The process has ended, or closed its end."""
        self._client.lose(self, self._failure)
        self.lost.set_result(self._failure)
        if not self.opened.done():
            self.opened.cancel()

    def send(self, message: ToEngine) -> None:
        """Send a message; it goes nowhere if the connection is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))

    def drop(self) -> None:
        """Close the connection now; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()


class EngineClient:
    """Asks whatever engine process is connected; see ``client.Client``.

    Made inside the event loop that it lives in. It survives engine processes: while none serves,
    ``model`` is None and ``submit`` refuses.

    Args:
        observer: told when an engine has loaded its model, of its steps, and when it is gone.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self._observer = observer or Observer()
        self.state = State()
        self.model: Opened | None = None
        self._link: Link | None = None
        self._answers: dict[str, EngineAnswer] = {}
        self._heard_s = 0.0
        self._idle: asyncio.Future[None] | None = None
        self._closing = False

    @property
    def num_unfinished(self) -> int:
        """Requests that the engine has not ended yet, aborted ones included."""
        return len(self._answers)

    @property
    def silent_s(self) -> float:
        """For how long an engine that has work has said nothing, in seconds."""
        return self.loop.time() - self._heard_s if self._answers else 0.0

    async def connect(self, sock: socket.socket, opening: Open) -> Link:
        """Have the process at the other end of ``sock`` load a model; returns at once."""
        link = Link(self)
        await self.loop.create_unix_connection(lambda: link, sock=sock)
        link.send(opening)
        return link

    def submit(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: Mapping[str, Any],
        *,
        priority: int = 0,
        cache_salt: bytes = b"",
    ) -> EngineAnswer:
        """Ask; see ``client.Client``.

        Raises:
            EngineGoneError: no engine serves now.
            RequestError: the id is in use, or something has no place in a message.
        """
        return self._ask(Submit(request_id, list(prompt_ids), dict(params), priority, cache_salt))

    def embed(
        self, request_id: str, prompt_ids: Sequence[int], *, priority: int = 0
    ) -> EngineAnswer:
        """Ask for a vector; see ``client.Client``.

        Raises:
            EngineGoneError: no engine serves now.
            RequestError: the id is in use, or something has no place in a message.
        """
        return self._ask(Embed(request_id, list(prompt_ids), priority))

    def _ask(self, message: Submit | Embed) -> EngineAnswer:
        if self.model is None:
            raise EngineGoneError("no engine serves now", next="send it again in some seconds")
        if message.id in self._answers:
            raise RequestError("the request id is in use", got=message.id)
        try:
            self.send(message)
        except (TypeError, OverflowError) as error:
            raise RequestError("the request cannot be sent to the engine", got=error) from error
        if not self._answers:
            self._heard_s = self.loop.time()
        answer = self._answers[message.id] = EngineAnswer(self, message.id)
        return answer

    def send(self, message: ToEngine) -> None:
        """Send a message, if there is anyone to send it to."""
        if self._link is not None:
            self._link.send(message)

    async def until_idle(self) -> None:
        """Wait until every request has ended."""
        while self._answers:
            self._idle = self.loop.create_future()
            await self._idle

    def close(self) -> None:
        """Ask the engine process to leave; no other comes."""
        self._closing = True
        self.send(Close())

    def serve(self, link: Link, model: Opened) -> None:
        """The engine behind ``link`` takes requests from now on."""
        self._link, self.model = link, model
        self._observer.loaded(model)

    def lose(self, link: Link, cause: GraphoptError | None) -> None:
        """The engine behind ``link`` is gone, and with it every request it had."""
        if link is not self._link:
            return
        self._link = self.model = None
        self.state = State()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.end(
                EngineGoneError(
                    "the engine process died",
                    got=cause,
                    next="send the request again; the engine starts anew",
                )
            )
        self._wake_idle()
        if not self._closing:
            self._observer.gone()

    def progress(self, message: Progress) -> None:
        """Give out what a step brought."""
        self._heard_s = self.loop.time()
        self.state = message.state
        self._observer.stepped(message.state)
        answers = self._answers
        for part in message.parts:
            answer = answers.get(part.id)
            if answer is not None:
                answer.give(part)
        for ended in message.ended:
            answer = answers.pop(ended.id, None)
            if answer is not None:
                answer.ended = ended
                answer.end(None if ended.error is None else ended.error.error())
        if not answers:
            self._wake_idle()

    def _wake_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
