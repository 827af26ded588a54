"""What the HTTP process and the engine process say to each other, and how it looks on the wire.

A message is a MessagePack map behind its length, four bytes, big endian. Nothing is pickled, and
a message that is not of the types below is refused. The engine deals in token ids alone: text is
the business of the HTTP process, stop strings included.

    HTTP -> engine   Open, then Submit, Embed and Abort in any order, Close
    engine -> HTTP   Loading ..., Opened or Failed, then a Progress for each step
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from msgspec import Struct

from graphopt import errors
from graphopt.errors import GraphoptError

from ..outputs import RequestMetrics, TokenLogprobs

MAX_MESSAGE_BYTES = 256 << 20
_LENGTH = struct.Struct(">I")


class WireError(Struct, frozen=True):
    """A ``GraphoptError`` on its way.

    Attributes:
        kind: name of its class.
        what: as in the error, and so are the others.
    """

    kind: str
    what: str
    where: str | None = None
    got: str | None = None
    expected: str | None = None
    next: str | None = None

    @classmethod
    def of(cls, error: GraphoptError) -> WireError:
        """``error`` as a message."""
        named = type(error).__name__
        return cls(named, error.what, error.where, error.got, error.expected, error.next)

    def error(self) -> GraphoptError:
        """The error again; of the base class if its own is not known here."""
        kind = getattr(errors, self.kind, GraphoptError)
        if not (isinstance(kind, type) and issubclass(kind, GraphoptError)):
            kind = GraphoptError
        return kind(
            self.what, where=self.where, got=self.got, expected=self.expected, next=self.next
        )


class Open(Struct, frozen=True, tag="open"):
    """Load a model; the first message.

    Attributes:
        artifact: its folder.
        options: arguments of ``LLM``, those that are plain data.
        seal: what ``seal_of`` has to find in its manifest; empty for anything.
    """

    artifact: str
    options: dict[str, Any] = {}
    seal: str = ""


class Submit(Struct, frozen=True, tag="submit"):
    """Take a request in.

    Attributes:
        id: unique among the unfinished.
        prompt_ids: the prompt.
        params: fields of ``SamplingParams`` that differ from their defaults; no stop strings.
        priority: smaller is more urgent.
        cache_salt: prompts are only found again under the same salt.
    """

    id: str
    prompt_ids: list[int]
    params: dict[str, Any]
    priority: int = 0
    cache_salt: bytes = b""


class Embed(Struct, frozen=True, tag="embed"):
    """Take in a text that is to become a vector, which comes with its end.

    Attributes:
        id: unique among the unfinished.
        prompt_ids: the text.
        priority: smaller is more urgent.
    """

    id: str
    prompt_ids: list[int]
    priority: int = 0


class Abort(Struct, frozen=True, tag="abort"):
    """End a request; it is no fault if it has ended."""

    id: str


class Close(Struct, frozen=True, tag="close"):
    """Drop what is unfinished and leave."""


ToEngine = Open | Submit | Embed | Abort | Close


class Loading(Struct, frozen=True, tag="loading"):
    """How far loading is, as ``graphopt.progress`` tells it."""

    what: str
    done: int = 0
    total: int = 0


class Opened(Struct, frozen=True, tag="opened"):
    """The model is loaded and serves.

    Attributes:
        vocab_size: tokens that the model knows.
        max_model_len: longest context in tokens, KV memory considered.
        max_num_seqs: most sequences that run at once.
        block_size: KV slots in a block.
        num_blocks: KV blocks.
        memory: what the memory is used for, in a sentence.
        embedding_size: entries of a vector; 0 for a model that generates.
    """

    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    block_size: int
    num_blocks: int
    memory: str
    embedding_size: int = 0


class Failed(Struct, frozen=True, tag="failed"):
    """The model could not be loaded, or the loop broke; the process ends after it."""

    error: WireError


class Part(Struct, frozen=True, array_like=True):
    """What one step added to one sample of a request.

    Attributes:
        id: whose it is.
        index: number of the sample.
        token_ids: tokens that are new.
        logprobs: theirs, if they were asked for.
        finish_reason: ``stop``, ``length`` or ``abort`` in the sample's last part.
        stop_reason: the stop token that ended it; None for an end-of-sequence token.
    """

    id: str
    index: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: str | None = None
    stop_reason: int | None = None


class Ended(Struct, frozen=True, array_like=True):
    """A request has ended; nothing about it follows.

    Attributes:
        id: which one.
        metrics: times of the system's monotonic clock, and counts.
        prompt_logprobs: as in ``RequestOutput``.
        error: why it failed.
        vector: of a text that was embedded, f32 with the least byte first.
    """

    id: str
    metrics: RequestMetrics
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    error: WireError | None = None
    vector: bytes | None = None


class State(Struct, frozen=True, array_like=True):
    """The engine after a step; the totals count from its start.

    Attributes:
        running: sequences that hold blocks.
        waiting: sequences that wait for a place.
        used_blocks: KV blocks in use.
        prompt_tokens: prompt tokens computed, or found in the prefix cache.
        generated_tokens: tokens drawn.
        steps: steps run.
        preemptions: sequences that lost their blocks.
        prefix_queries: prompt tokens looked up in the prefix cache.
        prefix_hits: those found.
    """

    running: int = 0
    waiting: int = 0
    used_blocks: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0


class Progress(Struct, frozen=True, tag="progress"):
    """What came of a step, or of an abort.

    Attributes:
        parts: at most one per sample.
        ended: the requests that ended; a request's parts come before or with it.
        state: the engine now.
    """

    parts: list[Part]
    ended: list[Ended]
    state: State


FromEngine = Loading | Opened | Failed | Progress

_encoder = msgspec.msgpack.Encoder()


def encode(message: ToEngine | FromEngine) -> bytes:
    """``message`` as it is sent, its length in front."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class Inbox:
    """Cuts a stream of bytes into messages.

    Args:
        types: the union of the types that are expected.
    """

    def __init__(self, types: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(types)
        self._bytes = bytearray()

    def push(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes, in order.

        Raises:
            GraphoptError: these bytes are no message; the other side is not what it should be.
        """
        self._bytes += data
        found, place = [], 0
        while len(self._bytes) - place >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._bytes, place)
            if size > MAX_MESSAGE_BYTES:
                raise GraphoptError(
                    "a message between the server's processes is too long",
                    got=f"{size} bytes",
                    expected=f"at most {MAX_MESSAGE_BYTES}",
                )
            stop = place + _LENGTH.size + size
            if len(self._bytes) < stop:
                break
            with memoryview(self._bytes) as view:
                body = bytes(view[place + _LENGTH.size : stop])
            try:
                found.append(self._decoder.decode(body))
            except msgspec.DecodeError as error:
                raise GraphoptError(
                    "a message between the server's processes cannot be read", got=error
                ) from error
            place = stop
        del self._bytes[:place]
        return found
