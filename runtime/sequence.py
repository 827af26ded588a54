"""Requests and their sequences: tokens, blocks, and how far each has been computed.

A request with ``n`` samples has ``n`` sequences over one prompt. A sequence knows its tokens and
which of them have keys and values in its blocks; it decides nothing. While a step is on its way the
token that it draws has a place and is not known; what the step computes counts as computed.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .kv_cache import BlockTable
from .pooling import FIRST, LAST
from .sampling_params import SamplingParams

if TYPE_CHECKING:
    from .matcher import Matcher

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]


class Status(enum.Enum):
    """Where a sequence stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Request:
    """What the user asked for, and the sequences that answer it.

    Attributes:
        id: unique among the unfinished.
        prompt_ids: i64[prompt length].
        prompt: the prompt's text, if it was given as text.
        params: how to sample.
        seed: the request's own, or one that the engine drew.
        arrival_ms: time of the engine's clock.
        priority: smaller is more urgent; only the ``priority`` policy looks at it.
        root: what the names of its blocks begin with; blocks are shared where it is the same.
        sequences: one per sample.
        started_ms: when the first of them was given blocks; None while all wait.
        pooling: how the rows of the prompt become a vector, one of ``graphopt.embedding.POOLINGS``;
            empty for a request that generates.
    """

    id: str
    prompt_ids: I64
    prompt: str | None
    params: SamplingParams
    seed: int
    arrival_ms: float
    priority: int = 0
    root: bytes = b""
    sequences: tuple[Sequence, ...] = field(default=())
    started_ms: float | None = None
    pooling: str = ""


class TokenCounts:
    """How often each token occurs in prompt and output; what the penalties look at.

    Kept incrementally, and only for sequences with penalties: a step copies two short arrays
    instead of counting a whole context again.
    """

    __slots__ = ("_counts", "_index", "_size", "_tokens")

    def __init__(self, prompt_ids: I64) -> None:
        prompt = np.unique(prompt_ids)
        self._size = len(prompt)
        self._tokens: I64 = np.empty(self._size + 16, dtype=np.int64)
        self._tokens[: self._size] = prompt
        self._counts: I32 = np.zeros(self._size + 16, dtype=np.int32)
        self._index = {int(token): place for place, token in enumerate(prompt)}

    def add(self, token: int) -> None:
        """Count ``token`` once more in the output."""
        place = self._index.get(token)
        if place is None:
            place = self._index[token] = self._size
            if place == len(self._tokens):
                self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._tokens[place] = token
            self._size += 1
        self._counts[place] += 1

    @property
    def tokens(self) -> I64:
        """Each token of prompt and output once, i64[N]."""
        return self._tokens[: self._size]

    @property
    def counts(self) -> I32:
        """Occurrences of each in the output alone, i32[N]; 0 for tokens of the prompt only."""
        return self._counts[: self._size]


class Sequence:
    """One sample of a request.

    Attributes:
        request: whose sample it is.
        index: number of the sample.
        ticket: order of arrival, unique over all sequences.
        max_output: most tokens it may generate, the context's limit included.
        stop_ids: tokens that end it.
        status: waiting, running or finished.
        table: its blocks; empty unless it runs.
        computed: tokens whose keys and values are in its blocks once all steps are done.
        in_flight: steps on their way that it has a part in.
        unknown: its last tokens that such steps have yet to draw.
        scored: prompt positions whose successor's log-probability is known.
        cached: prompt tokens that were found when it was first admitted.
        preemptions: how often it lost its blocks.
        names: the names of its first full blocks, as far as they were asked for.
        published: how many of its blocks can be found by others, or were found.
        awaits: the name of a block that another computes, and that it waits for.
        counts: token counts, if there are penalties.
        matcher: says which tokens may come next, if the request has a constraint.
        held: whether it is kept out of steps until the matcher knows.
        plain: whether its tokens are the places of the largest logits and nothing is reported.
    """

    __slots__ = (
        "_num_tokens",
        "_tokens",
        "awaits",
        "cached",
        "computed",
        "counts",
        "held",
        "in_flight",
        "index",
        "matcher",
        "max_output",
        "names",
        "plain",
        "preemptions",
        "published",
        "request",
        "scored",
        "status",
        "stop_ids",
        "table",
        "ticket",
        "unknown",
    )

    def __init__(
        self,
        request: Request,
        index: int,
        ticket: int,
        max_output: int,
        stop_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.request = request
        self.index = index
        self.ticket = ticket
        self.max_output = max_output
        self.stop_ids = stop_ids
        self.status = Status.WAITING
        self.table = BlockTable()
        self.computed = 0
        self.in_flight = 0
        self.unknown = 0
        self.scored = 0
        self.cached = 0
        self.preemptions = 0
        self.names: list[bytes] = []
        self.published = 0
        self.awaits: bytes | None = None
        params = request.params
        self.counts = TokenCounts(request.prompt_ids) if params.has_penalties else None
        self.matcher: Matcher | None = None
        self.held = False
        self.plain = params.greedy and not (
            params.has_penalties
            or params.logit_bias
            or params.allowed_ids
            or params.min_tokens
            or params.constraint is not None
            or params.logprobs is not None
            or params.prompt_logprobs is not None
        )
        self._num_tokens = len(request.prompt_ids)
        self._tokens = request.prompt_ids

    def __repr__(self) -> str:
        return (
            f"Sequence({self.request.id}#{self.index}, {self.status.value}, "
            f"prompt {self.num_prompt}, output {self.num_output}, computed {self.computed})"
        )

    @property
    def params(self) -> SamplingParams:
        """The request's sampling parameters."""
        return self.request.params

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output, unknown ones included."""
        return self._num_tokens

    @property
    def num_drawn(self) -> int:
        """Tokens of the output, unknown ones included."""
        return self._num_tokens - len(self.request.prompt_ids)

    @property
    def num_output(self) -> int:
        """Known tokens of the output."""
        return self.num_drawn - self.unknown

    @property
    def output_ids(self) -> list[int]:
        """Known tokens of the output."""
        known = self._num_tokens - self.unknown
        output: list[int] = self._tokens[self.num_prompt : known].tolist()
        return output

    def tokens(self, start: int, stop: int) -> I64:
        """Tokens at positions ``start`` to ``stop``, a view; unknown ones are 0."""
        return self._tokens[start : min(stop, self._num_tokens)]

    def launch(self, stop: int, draws: bool) -> None:
        """A step sets out that computes the tokens before ``stop``, and may draw the next one."""
        self.computed = stop
        self.in_flight += 1
        if not draws:
            return
        if self._num_tokens == len(self._tokens):
            grown = np.empty(self._num_tokens + max(64, self._num_tokens // 2), dtype=np.int64)
            grown[: self._num_tokens] = self._tokens[: self._num_tokens]
            self._tokens = grown
        self._tokens[self._num_tokens] = 0
        self._num_tokens += 1
        self.unknown += 1

    def land(self, token: int | None = None) -> None:
        """The first of the steps on their way is done; ``token`` is what it drew, if it did."""
        self.in_flight -= 1
        if token is None:
            return
        self._tokens[self._num_tokens - self.unknown] = token
        self.unknown -= 1
        if self.counts is not None:
            self.counts.add(token)

    @property
    def waits(self) -> bool:
        """Whether its next step can only be prepared when all its tokens are known."""
        needs_all = self.counts is not None or self.matcher is not None
        return needs_all and self.unknown > 0

    @property
    def target(self) -> int:
        """Tokens to compute before the next token can be sampled.

        The last token of all does not need to be computed, only to be drawn, or scored, by those
        before it (but at least one is, so that every request runs). A vector needs them all.
        """
        if self.request.pooling:
            return self._num_tokens
        last = self.num_drawn >= self.max_output
        return max(1, self._num_tokens - 1) if last else self._num_tokens

    @property
    def pending(self) -> int:
        """Tokens that can be computed and are not."""
        return self.target - self.computed

    @property
    def scores_prompt(self) -> bool:
        """Whether this sample, the first, has log-probabilities of the prompt to give."""
        return self.index == 0 and self.params.prompt_logprobs is not None

    def rows(self, count: int) -> int:
        """Rows of the output that computing ``count`` more tokens needs."""
        stop = self.computed + count
        if self.request.pooling:
            one = {FIRST: self.computed == 0 < count, LAST: stop == self._num_tokens}
            return int(one.get(self.request.pooling, count))
        sampled = int(self.max_output > 0 and stop == self._num_tokens)
        if not self.scores_prompt:
            return sampled
        first = max(self.scored, self.computed)
        return max(0, min(stop, self.num_prompt - 1) - first) + sampled

    def fit_rows(self, count: int, rows: int) -> int:
        """The most tokens, up to ``count``, that need no more than ``rows`` rows."""
        if self.rows(count) <= rows:
            return count
        if self.rows(count - 1) <= rows:
            return count - 1
        return min(count, max(self.scored, self.computed) - self.computed + rows)

    def finish(self) -> list[int]:
        """End the sequence; returns the blocks it held."""
        self.status = Status.FINISHED
        return self.table.clear()

    def preempt(self) -> list[int]:
        """Send the sequence back to wait, to be computed again; returns the blocks it held."""
        self.status = Status.WAITING
        self.computed = 0
        self.preemptions += 1
        return self.table.clear()
