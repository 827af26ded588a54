"""What the engine gives back: pieces of a sample as they come, and whole requests at the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from graphopt.errors import GraphoptError

# stop: a stop token or string; length: max_tokens or the context; abort: the caller, or an error.
FinishReason = str
STOP, LENGTH, ABORT = "stop", "length", "abort"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of one token under the model, before any sampling parameter.

    Attributes:
        token_id: the token.
        logprob: natural logarithm of its probability.
        rank: 1 for the most likely token; equal ones share the better rank.
        top: the most likely tokens and their log-probabilities, most likely first.
    """

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample of a request.

    Attributes:
        index: number of the sample, from 0.
        token_ids: what was generated, a stop token included.
        text: the tokens as text, up to the stop; empty without a tokenizer.
        logprobs: one per token, if they were asked for.
        finish_reason: ``stop``, ``length`` or ``abort``; None while it goes on.
        stop_reason: the stop string or stop token that ended it; None for an end-of-sequence token.
    """

    index: int
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Times of the engine's clock, in seconds, and what was saved or done twice.

    Attributes:
        arrival_s: when the request was accepted.
        first_token_s: when its first token came; None if none did.
        finished_s: when it ended.
        cached_tokens: prompt tokens that were not computed, because an earlier request had them.
        preemptions: how often a sample lost its blocks and was computed again.
        started_s: when it had waited enough and was first given blocks; None if it never was.
    """

    arrival_s: float
    first_token_s: float | None
    finished_s: float
    cached_tokens: int = 0
    preemptions: int = 0
    started_s: float | None = None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A finished request. The properties are those of its first sample.

    Attributes:
        request_id: as given to the engine.
        prompt: the prompt's text, if it was given as text.
        prompt_token_ids: the prompt.
        completions: one per sample.
        prompt_logprobs: one per prompt token, None for the first; None if not asked for. Shorter
            than the prompt if the request was aborted.
        metrics: times and counts.
        error: why it was aborted, if it failed.
        embedding: f32[D], the prompt's vector, if it was to be embedded; then the only completion
            is empty, and nothing of the request stands in deltas.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None
    metrics: RequestMetrics
    error: GraphoptError | None = None
    embedding: npt.NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def text(self) -> str:
        """Text of the first sample."""
        return self.completions[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Tokens of the first sample."""
        return self.completions[0].token_ids

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...] | None:
        """Log-probabilities of the first sample's tokens."""
        return self.completions[0].logprobs

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first sample ended."""
        return self.completions[0].finish_reason


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingOutput:
    """What a text became.

    Attributes:
        embedding: f32[D].
        prompt_token_ids: the text, with the tokens that the tokenizer put around it.
        metrics: times and counts.
    """

    embedding: npt.NDArray[np.float32]
    prompt_token_ids: tuple[int, ...]
    metrics: RequestMetrics


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one sample. Text may lag behind tokens, but none is ever lost.

    Attributes:
        request_id: whose it is.
        index: number of the sample.
        text: text that is new and will not change.
        token_ids: tokens that are new.
        logprobs: theirs, if they were asked for.
        finish_reason: set in the sample's last delta.
        stop_reason: see ``Completion``.
        error: why the request failed, in its last delta.
    """

    request_id: str
    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    error: GraphoptError | None = None

    def ended(self, reason: FinishReason, error: GraphoptError | None = None) -> Delta:
        """This delta as the sample's last one."""
        return replace(self, finish_reason=reason, error=error)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step of the engine produced.

    Attributes:
        deltas: at most one per sample.
        finished: the requests that ended in this step.
        num_tokens: tokens that went through the model.
    """

    deltas: tuple[Delta, ...] = ()
    finished: tuple[RequestOutput, ...] = ()
    num_tokens: int = 0

    def then(self, other: StepOutput) -> StepOutput:
        """Both outputs as one."""
        return StepOutput(
            self.deltas + other.deltas,
            self.finished + other.finished,
            self.num_tokens + other.num_tokens,
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """What an engine has done since it was made.

    Attributes:
        prompt_tokens: prompt tokens computed, those of preempted samples again, or found.
        generated_tokens: tokens drawn that belong to an answer.
        steps: steps that have landed.
        preemptions: how often a sequence lost its blocks.
        prefix_queries: prompt tokens of requests that looked for them in the prefix cache.
        prefix_hits: those found.
    """

    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
