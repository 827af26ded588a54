"""What is told of each request: listeners count, log and trace it, and no route knows of them.

``Watch`` makes a ``Record`` for every HTTP request; a route takes it with ``record_of`` and says

    generation = record.asked(len(prompt_ids), params)   # once for each request to the engine
    generation.parts(parts)                              # as the answer gave them
    generation.finished(["stop"], answer.ended)          # one reason a sample

and ``record.refused(429, "…")`` or ``record.disconnected()`` where they apply. What a route leaves
unsaid, because it raised, is filled in when the HTTP answer ends. ``Observer()`` tells nobody.

Everything is called by the event loop of the HTTP process alone. Times are of the monotonic clock,
which is the system's, and so the engine's too.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from .wire import Ended, Opened, Part, State

Clock = Callable[[], float]
REASONS = ("stop", "length", "tool_calls", "abort", "error")
_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_NO_PARAMS: Mapping[str, Any] = MappingProxyType({})


def request_id_of(given: str | None) -> str:
    """The id a client gave, if it is short and plain; else a new one."""
    return given if given is not None and _ID.fullmatch(given) else uuid.uuid4().hex


class Pulse(Protocol):
    """Hears of every token and every step, so it has to be cheap."""

    def first_token(self, seconds: float) -> None:
        """The first token of a request came so long after the HTTP request."""

    def between_tokens(self, seconds: float) -> None:
        """A token of a sample came so long after the one before it."""

    def stepped(self, state: State) -> None:
        """The engine after a step."""


class _NoPulse:
    """Nobody counts."""

    def first_token(self, seconds: float) -> None:
        """Nothing."""

    def between_tokens(self, seconds: float) -> None:
        """Nothing."""

    def stepped(self, state: State) -> None:
        """Nothing."""


class Generation:
    """One request to the engine, of which an HTTP request may make several.

    Attributes:
        prompt_tokens: length of the prompt.
        params: what was asked for, as in ``wire.Submit``.
        prompt: the prompt as the client gave it; only shown if prompts are to be logged.
        asked_s: when it was handed over.
        first_token_s: when its first token came back; None while none has.
        last_token_s: when its last token so far came back.
        completion_tokens: tokens that have come, of all samples.
        reasons: why each sample ended; empty while it goes on.
        ended: what the engine said at the end, if it came to that.
    """

    __slots__ = (
        "_arrived_s",
        "_clock",
        "_last",
        "_pulse",
        "asked_s",
        "completion_tokens",
        "ended",
        "finished_s",
        "first_token_s",
        "last_token_s",
        "params",
        "prompt",
        "prompt_tokens",
        "reasons",
    )

    def __init__(
        self,
        prompt_tokens: int,
        params: Mapping[str, Any],
        prompt: object,
        arrived_s: float,
        clock: Clock,
        pulse: Pulse,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.params = params
        self.prompt = prompt
        self.asked_s = clock()
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.finished_s: float | None = None
        self.completion_tokens = 0
        self.reasons: tuple[str, ...] = ()
        self.ended: Ended | None = None
        self._arrived_s = arrived_s
        self._clock = clock
        self._pulse = pulse
        self._last: dict[int, float] = {}

    def parts(self, parts: Sequence[Part]) -> None:
        """Tokens have come; called once for what was read at a time, so it has to be cheap."""
        now, last = self._clock(), self._last
        for part in parts:
            count = len(part.token_ids)
            if not count:
                continue
            self.completion_tokens += count
            before = last.get(part.index)
            if before is not None:
                self._pulse.between_tokens(now - before)
            elif self.first_token_s is None:
                self.first_token_s = now
                self._pulse.first_token(now - self._arrived_s)
            last[part.index] = now
            self.last_token_s = now

    def finished(self, reasons: Sequence[str], ended: Ended | None = None) -> None:
        """It is over, and nothing more is said of it; what comes after the first time is ignored.

        Args:
            reasons: why each sample ended, those of ``REASONS``; a stop string is a ``stop``.
            ended: what the engine said, if it did: an answer cut at a stop string has none.
        """
        if not self.reasons:
            self.reasons = tuple(r if r in REASONS else "error" for r in reasons) or ("error",)
            self.ended = ended
            self.finished_s = self._clock()


class Record:
    """One HTTP request, from its head to the end of its answer.

    Attributes:
        id: from ``X-Request-Id`` or made up; the answer carries it.
        method: of HTTP.
        route: path of the route, with its placeholders; ``other`` if there is no such route.
        traceparent: the W3C trace that it belongs to, as the client gave it.
        arrived_s: when it came.
        finished_s: when its answer ended.
        status: of the answer; None if none was begun.
        why: why it was refused or failed.
        gone: whether the client went away before the end.
        generations: what it asked of the engine.
    """

    __slots__ = (
        "_clock",
        "_pulse",
        "arrived_s",
        "finished_s",
        "generations",
        "gone",
        "id",
        "method",
        "route",
        "status",
        "traceparent",
        "why",
    )

    def __init__(
        self,
        request_id: str,
        method: str = "POST",
        *,
        traceparent: str | None = None,
        clock: Clock = time.monotonic,
        pulse: Pulse | None = None,
    ) -> None:
        self.id = request_id
        self.method = method
        self.route = "other"
        self.traceparent = traceparent
        self.arrived_s = clock()
        self.finished_s: float | None = None
        self.status: int | None = None
        self.why: str | None = None
        self.gone = False
        self.generations: list[Generation] = []
        self._clock = clock
        self._pulse = pulse or _NoPulse()

    def asked(
        self, prompt_tokens: int, params: Mapping[str, Any] = _NO_PARAMS, prompt: object = None
    ) -> Generation:
        """The engine is asked: ``prompt`` is what the client gave, text or token ids."""
        generation = Generation(
            prompt_tokens, params, prompt, self.arrived_s, self._clock, self._pulse
        )
        self.generations.append(generation)
        return generation

    def refused(self, status: int, why: str) -> None:
        """It is answered with an error, or ends in one if the answer had begun."""
        if self.status is None:
            self.status = status
        self.why = why

    def disconnected(self) -> None:
        """The client went away."""
        self.gone = True

    def end(self) -> None:
        """The answer has ended; what no route has said is filled in."""
        for generation in self.generations:
            generation.finished(("abort" if self.gone else "error",))
        self.finished_s = self._clock()


class Listener(Protocol):
    """Hears of requests and of the engine. It must neither wait nor raise."""

    def arrived(self, record: Record) -> None:
        """A request has come; nothing is known of it but its head."""

    def ended(self, record: Record) -> None:
        """A request's answer has ended."""

    def loaded(self, model: Opened) -> None:
        """The engine serves, and its totals count from zero."""

    def gone(self) -> None:
        """The engine died; what it was doing last is what ``Pulse`` heard last."""


class Observer:
    """Tells listeners what happens.

    Args:
        listeners: who hears of each event, in this order.
        pulse: who hears of every token and step.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        listeners: Sequence[Listener] = (),
        *,
        pulse: Pulse | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._listeners = tuple(listeners)
        self._pulse = pulse or _NoPulse()
        self._clock = clock

    def arrived(
        self, method: str, request_id: str | None = None, traceparent: str | None = None
    ) -> Record:
        """A request has come."""
        record = Record(
            request_id_of(request_id),
            method,
            traceparent=traceparent,
            clock=self._clock,
            pulse=self._pulse,
        )
        for listener in self._listeners:
            listener.arrived(record)
        return record

    def ended(self, record: Record) -> None:
        """The answer to a request has ended."""
        record.end()
        for listener in self._listeners:
            listener.ended(record)

    def loaded(self, model: Opened) -> None:
        """The engine process has loaded its model, for the first time or again."""
        for listener in self._listeners:
            listener.loaded(model)

    def stepped(self, state: State) -> None:
        """The engine after a step; called for every step."""
        self._pulse.stepped(state)

    def gone(self) -> None:
        """The engine process has died."""
        for listener in self._listeners:
            listener.gone()
