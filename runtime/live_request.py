"""A request from when it is taken in until it ends."""

from __future__ import annotations

from graphopt.errors import GraphoptError

from .completion_stream import CompletionStream
from .detokenizer import Decoder
from .outputs import RequestMetrics, RequestOutput, TokenLogprobs
from .pooling import F32, Pooling
from .sequence import Request


class Live:
    """A request that is not finished, and what came of it so far.

    Args:
        request: what was asked for.
        decoder: the tokenizer; None leaves texts empty.
        now_s: time of the engine's clock.
        pooling: makes a vector of its rows; None if it generates.

    Attributes:
        streams: its samples as they grow.
        pool: its rows, if it embeds.
        embedding: its vector, once it is known.
        prompt_logprobs: of the prompt's tokens so far, if they were asked for.
        error: why it was aborted, if it failed.
    """

    def __init__(
        self,
        request: Request,
        decoder: Decoder | None,
        now_s: float,
        pooling: Pooling | None = None,
    ) -> None:
        self.request = request
        self.pool = None if pooling is None else pooling.begin()
        self.embedding: F32 | None = None
        self.streams = [CompletionStream(one, decoder) for one in request.sequences]
        self.arrival_s = now_s
        self.first_token_s: float | None = None
        self.prompt_logprobs: list[TokenLogprobs | None] | None = (
            None if request.params.prompt_logprobs is None else [None]
        )
        self.error: GraphoptError | None = None

    @property
    def done(self) -> bool:
        """Whether every sample has ended."""
        return all(stream.finish_reason is not None for stream in self.streams)

    def output(self, now_s: float) -> RequestOutput:
        """The request as it ends."""
        request = self.request
        return RequestOutput(
            request.id,
            request.prompt,
            tuple(request.prompt_ids.tolist()),
            tuple(stream.completion() for stream in self.streams),
            None if self.prompt_logprobs is None else tuple(self.prompt_logprobs),
            RequestMetrics(
                self.arrival_s,
                self.first_token_s,
                now_s,
                request.sequences[0].cached,
                sum(one.preemptions for one in request.sequences),
                None if request.started_ms is None else request.started_ms / 1000.0,
            ),
            self.error,
            self.embedding,
        )
