"""The engine: schedule, run, emit, again and again.

It has no input or output, no threads and no clock of its own. A request enters through
``add_request``, a text that is to become a vector through ``add_embedding``, and both leave in the
``finished`` of a step's output, whatever becomes of them: an error inside a step ends the requests
of that step, and no others, with the error in their output. ``check`` states what holds between
steps.

With an executor that computes by itself a step sets out before the one ahead of it has landed: the
host schedules and emits while the device computes. A sequence that turns out to have ended then has
a part in one step too many, which nobody looks at.
"""

from __future__ import annotations

import time
from collections import abc, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphopt.errors import (
    DisagreementError,
    GraphoptError,
    MachineError,
    RequestError,
    UsageError,
)

from .detokenizer import Decoder
from .dispatch import BatchShape
from .executor import F32, Executor, RowStatus, Sampled
from .kv_cache import BlockPool
from .live_request import Live
from .model_runner import Flight, ModelRunner
from .outputs import (
    ABORT,
    Delta,
    RequestOutput,
    StepOutput,
    TokenLogprobs,
    Totals,
)
from .philox import derive_seed
from .policies import Policy
from .pooling import Pool, Pooling
from .prefix_cache import PrefixCache, Scope
from .prompts import token_array
from .sampling_params import SamplingParams
from .scheduler import Batch, Scheduled, Scheduler, SchedulerLimits
from .sequence import Request, Sequence, Status
from .task import demand_embeds, demand_generates

if TYPE_CHECKING:
    from .matcher import Matcher, Matchers


# What a text is computed with whose rows are all that is wanted.
_NO_SAMPLING = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How much the engine may do at once.

    Attributes:
        limits: what a step and the scheduler may hold.
        num_blocks: KV blocks to allocate.
        eos_token_ids: tokens that end a sample unless the request ignores them.
        seed: what seeds are drawn from for requests that have none.
        prefix_scope: who finds blocks of a prompt that was computed before.
    """

    limits: SchedulerLimits
    num_blocks: int
    eos_token_ids: frozenset[int] = frozenset()
    seed: int = 0
    prefix_scope: Scope = Scope.ALL


class Engine:
    """Continuous batching over one executor.

    Args:
        executor: runs the model; its KV memory is allocated here.
        config: how much may be done at once.
        decoder: the tokenizer, for text and stop strings; None gives token ids only.
        policy: who runs next; first come, first served if None.
        clock: seconds, for metrics and the policy.
        observe: told the shape of each step before it sets out.
        matchers: follows constrained samples; None for a model whose requests cannot be.
        pooling: makes vectors of rows, for a model that embeds; if None one without dense layers.

    Raises:
        UsageError: the limits exceed what the executor can do, or a model that embeds needs more.
        ArtifactError: the model embeds through dense layers, and there is no ``pooling``.
        MachineError: KV memory could not be allocated.
    """

    def __init__(
        self,
        executor: Executor,
        config: EngineConfig,
        *,
        decoder: Decoder | None = None,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.monotonic,
        observe: Callable[[BatchShape], None] | None = None,
        matchers: Matchers | None = None,
        pooling: Pooling | None = None,
    ) -> None:
        if config.limits.max_rows > executor.max_rows:
            raise UsageError(
                "more rows of logits than the artifact was compiled for",
                got=config.limits.max_rows,
                expected=f"at most {executor.max_rows}",
            )
        self._executor = executor
        self._config = config
        self._eos = frozenset(one for one in config.eos_token_ids if one < executor.vocab_size)
        self._decoder = decoder
        self._clock = clock
        self._matchers = matchers
        self._held: list[Sequence] = []  # constrained, and what may follow is not known yet
        self._requests_seen = 0
        self._tickets = 0
        self._prompt_tokens = self._generated_tokens = self._steps = 0
        self._live: dict[str, Live] = {}
        self._pool = BlockPool(config.num_blocks, executor.block_size)
        embedding = executor.embedding
        self._pooling = pooling if pooling or embedding is None else Pooling(embedding)
        scope = config.prefix_scope if embedding is None else Scope.NONE
        self._cache = PrefixCache(self._pool, scope)
        self.scheduler = Scheduler(config.limits, self._pool, policy, self._cache, embedding)
        self._runner = ModelRunner(executor, config.limits, self.scheduler.context_limit, observe)
        self._last_batch: Batch = ()
        self._flights: deque[Flight] = deque()
        executor.allocate(config.num_blocks)

    @property
    def has_work(self) -> bool:
        """Whether any request is not finished."""
        return bool(self._live)

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self.scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self.scheduler.waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks in use, 0 to 1."""
        return self._pool.num_used / self._pool.num_blocks

    @property
    def totals(self) -> Totals:
        """What has been done so far."""
        scheduler = self.scheduler
        return Totals(
            self._prompt_tokens + scheduler.prefix_hits,
            self._generated_tokens,
            self._steps,
            scheduler.preemptions,
            scheduler.prefix_queries,
            scheduler.prefix_hits,
        )

    def add_request(
        self,
        request_id: str,
        prompt_ids: abc.Sequence[int],
        params: SamplingParams,
        *,
        prompt: str | None = None,
        priority: int = 0,
        cache_salt: bytes = b"",
    ) -> None:
        """Take a request in; it runs from the next step on.

        Args:
            request_id: unique among the unfinished.
            prompt_ids: the prompt, at least one token.
            params: how to sample.
            prompt: the prompt as text, only to be given back.
            priority: smaller is more urgent, for the ``priority`` policy.
            cache_salt: blocks of the prompt are shared only with requests that have the same.

        Raises:
            RequestError: the prompt or a parameter does not make sense for this model.
            CapacityError: the request can never fit.
        """
        demand_generates(self._executor.embedding)
        tokens = self._check_prompt(request_id, prompt_ids)
        self._check_params(params)
        longest = self.scheduler.max_output(len(tokens), params.max_tokens)
        seed = params.seed
        if seed is None:
            seed = derive_seed(self._config.seed, self._requests_seen)
        self._requests_seen += 1
        now_s = self._clock()
        root = self._cache.root(cache_salt)
        request = Request(request_id, tokens, prompt, params, seed, now_s * 1000.0, priority, root)
        eos = frozenset() if params.ignore_eos else self._eos
        stop_ids = eos | frozenset(params.stop_ids)
        request.sequences = tuple(
            Sequence(request, index, self._tickets + index, longest, stop_ids)
            for index in range(params.n)
        )
        self._tickets += params.n
        self._live[request_id] = Live(request, self._decoder, now_s)
        if params.language is not None and self._matchers is not None:
            for sequence in request.sequences:
                self._hold(sequence, self._matchers.matcher(params.language, stop_ids))
        for sequence in request.sequences:
            self.scheduler.add(sequence)

    def add_embedding(
        self,
        request_id: str,
        prompt_ids: abc.Sequence[int],
        *,
        prompt: str | None = None,
        priority: int = 0,
    ) -> None:
        """Take a text in that is to become a vector, which stands in its ``RequestOutput``.

        Args:
            request_id: unique among the unfinished.
            prompt_ids: the text, at least one token.
            prompt: the text as text, only to be given back.
            priority: smaller is more urgent, for the ``priority`` policy.

        Raises:
            RequestError: the model generates, or does not know a token.
            CapacityError: the text can never fit.
        """
        embedding = demand_embeds(self._executor.embedding)
        tokens = self._check_prompt(request_id, prompt_ids)
        longest = self.scheduler.max_output(len(tokens), 0)
        now_s, root = self._clock(), self._cache.root(b"")
        now_ms = now_s * 1000.0
        request = Request(request_id, tokens, prompt, _NO_SAMPLING, 0, now_ms, priority, root)
        request.pooling = embedding.pooling
        sequence = Sequence(request, 0, self._tickets, longest)
        request.sequences = (sequence,)
        self._tickets += 1
        self._live[request_id] = Live(request, None, now_s, self._pooling)
        self.scheduler.add(sequence)

    def _hold(self, sequence: Sequence, matcher: Matcher) -> None:
        """Keep a sample out of steps until its matcher is ready."""
        sequence.matcher, sequence.held = matcher, True
        self._held.append(sequence)

    def _check_prompt(
        self, request_id: str, prompt_ids: abc.Sequence[int]
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        if request_id in self._live:
            raise RequestError("the request id is in use", got=request_id)
        return token_array(prompt_ids, self._executor.vocab_size)

    def _check_params(self, params: SamplingParams) -> None:
        vocab = self._executor.vocab_size
        named = {
            "stop_token_ids": params.stop_ids,
            "allowed_token_ids": params.allowed_ids or (),
            "logit_bias": tuple(params.logit_bias or ()),
        }
        for name, ids in named.items():
            if ids and max(ids) >= vocab:
                raise RequestError(
                    f"{name} names a token that the model does not have",
                    got=max(ids),
                    expected=f"ids 0 to {vocab - 1}",
                )
        if params.language is not None and self._matchers is None:
            raise RequestError("constraints need a tokenizer, and this checkpoint has none")
        if params.stop_strings and self._decoder is None:
            raise RequestError(
                "stop strings need a tokenizer, and this checkpoint has none",
                next="use stop_token_ids",
            )

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a request now; None if there is no such request (it may just have finished)."""
        live = self._live.get(request_id)
        if live is None:
            return None
        self._abort(live, None)
        return self._retire(live)

    def step(self) -> StepOutput:
        """Start one step, and give out what has landed meanwhile; without work it does nothing.

        Raises:
            GraphoptError: the scheduler found nothing to run although there is work, which cannot
                happen.
        """
        landed, idle = StepOutput(), not self._flights
        if any(part.sequence.waits for flight in self._flights for part in flight.batch):
            landed = self._land()
        landed = landed.then(self._settle())
        batch = self._last_batch = self.scheduler.schedule(self._clock() * 1000.0)
        if self._held and self._matchers is not None and not batch:
            self._matchers.wait(_matchers_of(self._held), for_late=True)
        elif idle and self._live and not batch:
            raise GraphoptError(
                "nothing can run although requests wait",
                got=f"{self.num_running} running, {self.num_waiting} waiting",
            )
        if batch:
            landed = landed.then(self._start(batch))
        on_their_way = int(self._runner.overlaps and len(batch) > 0)
        while len(self._flights) > on_their_way:
            landed = landed.then(self._land())
        return landed

    def _settle(self) -> StepOutput:
        """Let those that are held go on, if it is known now how; end those that cannot."""
        held = [one for one in self._held if one.status is not Status.FINISHED]
        self._held = []
        if not held or self._matchers is None:
            return StepOutput()
        self._matchers.wait(_matchers_of(held))
        deltas: list[Delta] = []
        ended: dict[str, Live] = {}
        for sequence in held:
            matcher, live = sequence.matcher, self._live[sequence.request.id]
            if matcher is None or sequence.status is Status.FINISHED:
                continue  # it ended with its request
            if not matcher.ready:
                matcher.is_late = True
                self._held.append(sequence)
                continue
            sequence.held = False
            if matcher.error is not None:
                deltas.extend(self._abort(live, matcher.error))
            elif matcher.ended:
                deltas.append(live.streams[sequence.index].end())
                self.scheduler.remove(sequence)
            else:
                continue
            ended[live.request.id] = live
        finished = tuple(self._retire(live) for live in ended.values() if live.done)
        return StepOutput(tuple(deltas), finished)

    def _start(self, batch: Batch) -> StepOutput:
        """Let a step set out; the answer is empty unless it cannot."""
        ahead = self._flights[-1].batch if self._flights else ()
        try:
            self._flights.append(self._runner.start(batch, ahead))
        except Exception as error:  # noqa: BLE001 (whatever an executor raises ends its requests)
            return self._fail(batch, error)
        return StepOutput()

    def _land(self) -> StepOutput:
        """Wait for the step that set out first, and give out what came of it."""
        flight = self._flights.popleft()
        try:
            sampled = self._runner.land(flight)
        except Exception as error:  # noqa: BLE001 (as in _start)
            return self._fail(flight.batch, error)
        return self._emit(flight.batch, sampled)

    def _emit(self, batch: Batch, sampled: Sampled) -> StepOutput:
        now_s = self._clock()
        deltas: list[Delta] = []
        touched: dict[str, Live] = {}
        self._steps += 1
        row = 0
        for part in batch:
            rows = range(row, row + part.rows)
            row += part.rows
            if part.sequence.status is Status.FINISHED:
                continue  # it ended while the step was on its way, or just now with its request
            live = self._live[part.sequence.request.id]
            touched[live.request.id] = live
            deltas.extend(self._emit_part(part, live, sampled, rows, now_s))
        self._follow([part.sequence for part in batch if part.samples])
        finished = tuple(self._retire(live) for live in touched.values() if live.done)
        return StepOutput(tuple(deltas), finished, sum(part.count for part in batch))

    def _follow(self, sequences: list[Sequence]) -> None:
        """Find out what may follow the tokens that constrained samples have just drawn."""
        moves = []
        for sequence in sequences:
            if sequence.matcher is not None and sequence.status is not Status.FINISHED:
                moves.append((sequence.matcher, sequence.output_ids[-1]))
                self._hold(sequence, sequence.matcher)
        if moves and self._matchers is not None:
            self._matchers.advance(moves)

    def _emit_part(
        self, part: Scheduled, live: Live, sampled: Sampled, rows: range, now_s: float
    ) -> abc.Iterator[Delta]:
        sequence = part.sequence
        error = _fault(sequence, sampled, rows)
        if error is not None:
            yield from self._abort(live, error)
            return
        if live.pool is not None and sampled.vectors is not None:
            self._pool_part(part, live, live.pool, sampled.vectors[rows.start : rows.stop])
            return
        token = int(sampled.token_ids[rows[-1]]) if part.samples else None
        sequence.land(token)
        self.scheduler.landed(part)
        self._prompt_tokens += max(0, min(part.stop, sequence.num_prompt) - part.start)
        self._generated_tokens += int(part.samples)
        stream = live.streams[sequence.index]
        scored = len(rows) - int(part.samples)
        if scored and live.prompt_logprobs is not None:
            most = sequence.params.prompt_logprobs or 0
            live.prompt_logprobs.extend(_logprobs(sampled, place, most) for place in rows[:scored])
            sequence.scored += scored
        if token is not None:
            if live.first_token_s is None:
                live.first_token_s = now_s
            wanted = sequence.params.logprobs
            report = None if wanted is None else _logprobs(sampled, rows[-1], wanted)
            yield stream.push(token, report)
        elif part.stop == sequence.target and sequence.max_output == 0:
            yield stream.finish()
        if stream.finish_reason is not None:
            self.scheduler.remove(sequence)

    def _pool_part(self, part: Scheduled, live: Live, pool: Pool, rows: F32) -> None:
        """Take in the rows of a text; with the last of them it ends, and has its vector."""
        sequence = part.sequence
        sequence.land()
        self._prompt_tokens += part.count
        pool.add(rows)
        if part.stop < sequence.target:
            return
        vector = pool.finish()
        if not np.isfinite(vector).all():
            self._abort(live, _not_finite(sequence, "vector's entries"))
            return
        live.embedding = vector
        live.streams[0].end()
        self.scheduler.remove(sequence)

    def _fail(self, batch: Batch, error: Exception) -> StepOutput:
        """End all requests of a step that could not be run."""
        if not isinstance(error, GraphoptError):
            cause = error
            error = MachineError(
                "the step could not be run", got=f"{type(cause).__name__}: {cause}"
            )
            error.__cause__ = cause
        deltas: list[Delta] = []
        lives = dict.fromkeys(
            self._live[part.sequence.request.id]
            for part in batch
            if part.sequence.status is not Status.FINISHED
        )
        for live in lives:
            deltas.extend(self._abort(live, error))
        return StepOutput(tuple(deltas), tuple(self._retire(live) for live in lives))

    def _abort(self, live: Live, error: GraphoptError | None) -> list[Delta]:
        """End all samples of a request that go on."""
        live.error = error
        deltas = []
        for sequence, stream in zip(live.request.sequences, live.streams, strict=True):
            if sequence.status is not Status.FINISHED:
                if not isinstance(error, RequestError | None):
                    self._cache.forget(sequence)
                self.scheduler.remove(sequence)
                deltas.append(stream.abort().ended(ABORT, error))
        return deltas if live.pool is None else []

    def _retire(self, live: Live) -> RequestOutput:
        del self._live[live.request.id]
        return live.output(self._clock())

    def check(self) -> None:
        """Demand the invariants between steps: for tests, after every step.

        Raises:
            GraphoptError: a block is leaked or wrongly shared, a sequence is lost, or the last step
                went over its budget.
        """
        self.scheduler.check()
        limits = self._config.limits
        for name, used, most in (
            ("tokens", sum(part.count for part in self._last_batch), limits.max_num_batched_tokens),
            ("rows", sum(part.rows for part in self._last_batch), limits.max_rows),
            ("sequences", len(self._last_batch), limits.max_num_seqs),
        ):
            if used > most:
                raise GraphoptError(f"a step has too many {name}", got=used, expected=most)
        listed = {*self.scheduler.waiting, *self.scheduler.running}
        alive = {
            sequence
            for live in self._live.values()
            for sequence in live.request.sequences
            if sequence.status is not Status.FINISHED
        }
        if listed != alive:
            raise GraphoptError("a sequence is lost", got=listed ^ alive)

    def close(self) -> None:
        """Drop all requests and give the executor's memory back."""
        for live in list(self._live.values()):
            self._abort(live, None)
        self._live.clear()
        self._flights.clear()
        self._executor.close()
        if self._matchers is not None:
            self._matchers.close()


def _matchers_of(sequences: list[Sequence]) -> list[Matcher]:
    return [one.matcher for one in sequences if one.matcher is not None]


def _fault(sequence: Sequence, sampled: Sampled, rows: range) -> GraphoptError | None:
    """What is wrong with a sequence's rows, if anything."""
    if sampled.status is None or not rows:
        return None
    worst = int(sampled.status[rows.start : rows.stop].max())
    if worst == RowStatus.OK:
        return None
    if worst == RowStatus.NOTHING_LEFT:
        return RequestError(
            "no token is left to choose",
            where=_where(sequence),
            got="allowed_token_ids, logit_bias, min_tokens and the constraint together exclude "
            "every token",
            next="allow a token that is neither banned nor a stop token",
        )
    return _not_finite(sequence, "rows" if sequence.request.pooling else "logits")


def _not_finite(sequence: Sequence, what: str) -> DisagreementError:
    return DisagreementError(
        f"the model's {what} are not finite numbers",
        where=_where(sequence),
        next="run `graphopt verify` on the artifact; float16 overflows where bfloat16 does not",
    )


def _where(sequence: Sequence) -> str:
    return f"request {sequence.request.id}, token {sequence.num_prompt + sequence.num_output}"


def _logprobs(sampled: Sampled, row: int, most: int) -> TokenLogprobs:
    """The report on one row, with ``most`` of the likeliest tokens."""
    if sampled.logprobs is None or sampled.ranks is None:
        raise GraphoptError("the executor reported no log-probabilities", where=f"row {row}")
    top: tuple[tuple[int, float], ...] = ()
    if most and sampled.top_ids is not None and sampled.top_logprobs is not None:
        ids = sampled.top_ids[row, :most].tolist()
        top = tuple(zip(ids, sampled.top_logprobs[row, :most].tolist(), strict=True))
    return TokenLogprobs(
        int(sampled.token_ids[row]), float(sampled.logprobs[row]), int(sampled.ranks[row]), top
    )
