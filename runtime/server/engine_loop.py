"""The engine's side of the wire: read what has come, run a step, say what came of it, again.

One thread. Everything that waits in the socket is read before a step, so that requests that came
together start together; without work the loop sleeps in the socket. A step's results leave in one
write. If the other side reads too slowly the write waits, and so do the steps; if it is gone the
loop ends.
"""

from __future__ import annotations

import socket
import time
import traceback
from dataclasses import fields
from typing import Any

from graphopt.errors import DeviceLostError, RequestError
from graphopt.failures import typed

from ..engine import Engine
from ..outputs import RequestMetrics, RequestOutput, StepOutput
from ..sampling_params import SamplingParams
from .wire import (
    Abort,
    Close,
    Embed,
    Ended,
    Inbox,
    Part,
    Progress,
    State,
    Submit,
    ToEngine,
    WireError,
    encode,
)

CHUNK_BYTES = 1 << 18
_PARAMS = frozenset(field.name for field in fields(SamplingParams))


class EngineLoop:
    """Runs an engine for whoever is at the other end of a socket.

    Args:
        engine: what runs; it has no requests yet.
        num_blocks: its KV blocks.
        sock: a connected stream socket that blocks.
        inbox: holds what of the stream was read already.
    """

    def __init__(self, engine: Engine, num_blocks: int, sock: socket.socket, inbox: Inbox) -> None:
        self._engine = engine
        self._num_blocks = num_blocks
        self._sock = sock
        self._inbox = inbox
        self._ended: list[Ended] = []  # since the last step, by an abort or a refusal
        self._open = True

    def run(self) -> None:
        """Work until the other side says so, or is gone.

        Raises:
            GraphoptError: the engine, its device or the stream is broken; unlike an error inside a
                step, which ends the requests of that step.
        """
        try:
            while self._receive():
                if self._ended:  # known before the step, so it does not wait for it
                    self._send(StepOutput())
                if self._engine.has_work:
                    step = self._engine.step()
                    self._send(step)
                    _demand_device(step)
        except (BrokenPipeError, ConnectionError):
            return  # nobody is left to be told

    def _receive(self) -> bool:
        """Take in all that has come, and wait for something if there is nothing to do.

        Returns:
            Whether to go on.
        """
        flags = socket.MSG_DONTWAIT if self._engine.has_work else 0
        while self._open:
            try:
                data = self._sock.recv(CHUNK_BYTES, flags)
            except BlockingIOError:
                break
            if not data:
                return False
            for message in self._inbox.push(data):
                self._take(message)
            flags = socket.MSG_DONTWAIT
        return self._open

    def _take(self, message: ToEngine) -> None:
        match message:
            case Submit() | Embed():
                self._add(message)
            case Abort(request_id):
                output = self._engine.abort(request_id)
                if output is not None:
                    self._ended.append(_ended(output))
            case Close():
                self._open = False
            case _:
                raise RequestError("the model is loaded already", got=type(message).__name__)

    def _add(self, message: Submit | Embed) -> None:
        """Hand a request to the engine; whatever is wrong with it ends it alone."""
        name, ids, priority = message.id, message.prompt_ids, message.priority
        try:
            if isinstance(message, Embed):
                self._engine.add_embedding(name, ids, priority=priority)
            else:
                params, salt = _params(message.params), message.cache_salt
                self._engine.add_request(name, ids, params, priority=priority, cache_salt=salt)
        except Exception as error:  # noqa: BLE001 (the others must not suffer)
            cause = typed(error)
            if cause is not error:
                traceback.print_exception(error)
                self._engine.abort(message.id)
            now_s = time.monotonic()
            metrics = RequestMetrics(now_s, None, now_s)
            self._ended.append(Ended(message.id, metrics, error=WireError.of(cause)))

    def _send(self, step: StepOutput) -> None:
        parts = [
            Part(
                delta.request_id,
                delta.index,
                delta.token_ids,
                delta.logprobs,
                delta.finish_reason,
                delta.stop_reason if isinstance(delta.stop_reason, int) else None,
            )
            for delta in step.deltas
        ]
        ended = self._ended + [_ended(output) for output in step.finished]
        self._ended = []
        self._sock.sendall(encode(Progress(parts, ended, self._state())))

    def _state(self) -> State:
        engine, totals = self._engine, self._engine.totals
        return State(
            engine.num_running,
            engine.num_waiting,
            round(engine.kv_usage * self._num_blocks),
            totals.prompt_tokens,
            totals.generated_tokens,
            totals.steps,
            totals.preemptions,
            totals.prefix_queries,
            totals.prefix_hits,
        )


def _demand_device(step: StepOutput) -> None:
    """Leave if a step lost its device, so that another process can begin anew."""
    for output in step.finished:
        if isinstance(output.error, DeviceLostError):
            raise output.error


def _params(named: dict[str, Any]) -> SamplingParams:
    unknown = named.keys() - _PARAMS
    if unknown:
        raise RequestError("a sampling parameter is unknown", got=", ".join(sorted(unknown)))
    return SamplingParams(**named)


def _ended(output: RequestOutput) -> Ended:
    error = None if output.error is None else WireError.of(output.error)
    vector = output.embedding
    return Ended(
        output.request_id,
        output.metrics,
        output.prompt_logprobs,
        error,
        None if vector is None else vector.astype("<f4", copy=False).tobytes(),
    )
