"""Who runs in this step, and how many tokens each: continuous batching under a token budget.

A step is filled in three phases, each in the policy's order: running sequences with one token to
compute (decodes), running sequences with more (prefill chunks), and new sequences. Two rules make
it live:

- A sequence is admitted when blocks for all its known tokens are there, and takes them at once:
  those that are found, which nobody can use for something else from then on, and free ones. So
  only a decode ever asks for a block, one at a time, and nobody stops halfway through a prefill.
- When a decode finds no free block, the least deserving running sequence loses its blocks and waits
  to be computed again; if that is the asker itself, it pauses and keeps them. The most deserving
  sequence never pauses: it alone fits the pool, else it would have been refused. Since it is the
  policy's order that decides, and the order of arrival is fixed, everyone becomes that one.

Admission leaves one free block per running sequence, so that it does not cause the next preemption.
A model that embeds never asks for another block, so it keeps none back. Where tokens see what comes
after them a sequence gets all its tokens in one step or none. Nobody overtakes the one that does
not fit what is left of a step: it is the first of the next step, which has room for a full context.
Whoever waits for blocks that a running sequence is computing waits for one that comes before it in
the policy's order, so that one's progress is its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import abc
from dataclasses import dataclass

import numpy as np

from graphopt.embedding import Embedding
from graphopt.errors import CapacityError, GraphoptError, UsageError

from .kv_cache import BlockPool, blocks_for
from .policies import Fcfs, Policy
from .pooling import wants_all_rows
from .prefix_cache import PrefixCache, Scope
from .sequence import Sequence, Status


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What a step and the scheduler may hold.

    Attributes:
        max_num_seqs: most sequences that run at once.
        max_num_batched_tokens: most tokens in a step.
        max_rows: most rows of logits in a step.
        max_model_len: longest sequence in tokens, prompt and output.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_rows: int
    max_model_len: int

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_model_len"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be positive", got=getattr(self, name))
        for name in ("max_num_batched_tokens", "max_rows"):
            if getattr(self, name) < self.max_num_seqs:
                raise UsageError(
                    f"{name} is too small: every running sequence needs one in each step",
                    got=getattr(self, name),
                    expected=f"at least max_num_seqs, {self.max_num_seqs}",
                    next=f"lower max_num_seqs, or raise {name}",
                )

    def largest_step(self, block_size: int) -> dict[str, int]:
        """T, R, S and P of the largest step."""
        return {
            "T": self.max_num_batched_tokens,
            "R": min(self.max_rows, self.max_num_batched_tokens),
            "S": self.max_num_seqs,
            "P": blocks_for(self.max_model_len, block_size),
        }


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A sequence's part of a step.

    Attributes:
        sequence: whose part it is.
        start: its first position.
        count: how many positions.
        rows: how many of them, the last ones, want logits; or, for a vector that is made of the
            first row alone, the first one.
        samples: whether the last of these yields a new token.
    """

    sequence: Sequence
    start: int
    count: int
    rows: int
    samples: bool

    @classmethod
    def of(cls, sequence: Sequence, count: int) -> Scheduled:
        """The next ``count`` positions of ``sequence``."""
        start = sequence.computed
        samples = sequence.max_output > 0 and start + count == sequence.num_tokens
        return cls(sequence, start, count, sequence.rows(count), samples)

    @property
    def stop(self) -> int:
        """The position after the last."""
        return self.start + self.count


Batch = tuple[Scheduled, ...]


class _Step:
    """A step while it is being filled, where ``whole`` with all tokens of a sequence or none."""

    def __init__(self, limits: SchedulerLimits, *, whole: bool) -> None:
        self.tokens = limits.max_num_batched_tokens
        self.rows = limits.max_rows
        self.parts: list[Scheduled] = []
        self._whole = whole

    def fit(self, sequence: Sequence) -> int:
        """Tokens of ``sequence`` that still fit."""
        count = sequence.fit_rows(min(sequence.pending, self.tokens), self.rows)
        return 0 if self._whole and count < sequence.pending else count

    def add(self, sequence: Sequence, count: int) -> None:
        """Give ``sequence`` ``count`` tokens of the budget."""
        part = Scheduled.of(sequence, count)
        self.parts.append(part)
        self.tokens -= part.count
        self.rows -= part.rows


class Scheduler:
    """Keeps the waiting and the running, and fills steps.

    Args:
        limits: what a step may hold.
        pool: the KV blocks.
        policy: who comes first.
        cache: finds blocks; a new one if None.
        embedding: how rows become vectors; None for a model that generates.

    Raises:
        UsageError: texts have to be computed in one step, and a full context does not fit one.

    Attributes:
        waiting: sequences that wait for a place, in order of arrival.
        running: sequences that hold blocks.
        preemptions: how often a sequence has lost its blocks.
        prefix_queries: prompt tokens of requests that were looked for in the cache.
        prefix_hits: those found.
    """

    def __init__(
        self,
        limits: SchedulerLimits,
        pool: BlockPool,
        policy: Policy | None = None,
        cache: PrefixCache | None = None,
        embedding: Embedding | None = None,
    ) -> None:
        self._grows = embedding is None  # whether a sequence needs blocks after it is admitted
        self._whole = embedding is not None and embedding.whole
        if embedding is not None and embedding.whole:
            _demand_whole_contexts(limits, wants_all_rows(embedding))
        self.limits = limits
        self.pool = pool
        self.policy: Policy = policy or Fcfs()
        self.cache = cache or PrefixCache(pool)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = self.prefix_queries = self.prefix_hits = 0

    @property
    def context_limit(self) -> int:
        """Longest sequence in tokens: the model's limit, or what all blocks hold if less."""
        return min(self.limits.max_model_len, self.pool.num_blocks * self.pool.block_size)

    def max_output(self, prompt_tokens: int, max_tokens: int | None) -> int:
        """Tokens that a prompt may be followed by, its wish and the context considered.

        Raises:
            CapacityError: the prompt and one token more can never fit.
        """
        wanted = self.context_limit if max_tokens is None else max_tokens
        least = prompt_tokens + min(1, wanted)
        if least > self.limits.max_model_len:
            raise CapacityError(
                "the prompt does not fit the model's context",
                got=f"{prompt_tokens} prompt tokens"
                + (f" and {least - prompt_tokens} to generate" if wanted else ""),
                expected=f"at most {self.limits.max_model_len} tokens (max_model_len)",
                next="shorten the prompt, or raise max_model_len if the model allows it",
            )
        if least > self.context_limit:
            need = blocks_for(least, self.pool.block_size)
            raise CapacityError(
                "the prompt does not fit KV memory",
                got=f"{prompt_tokens} prompt tokens need {need} blocks of {self.pool.block_size}",
                expected=f"at most {self.pool.num_blocks} blocks, {self.context_limit} tokens",
                next="shorten the prompt, or raise kv_cache_memory",
            )
        return min(wanted, self.context_limit - prompt_tokens)

    def add(self, sequence: Sequence) -> None:
        """Let ``sequence`` wait for its turn."""
        insort(self.waiting, sequence, key=_ticket)

    def remove(self, sequence: Sequence) -> None:
        """End ``sequence``, wherever it stands, and free its blocks."""
        if sequence.status is Status.RUNNING:
            self.running.remove(sequence)
        elif sequence.status is Status.WAITING:
            del self.waiting[bisect_left(self.waiting, sequence.ticket, key=_ticket)]
        self.cache.end(sequence)
        self.pool.free(sequence.finish())

    def landed(self, part: Scheduled) -> None:
        """What ``part`` computed is there now: from now on others may find it."""
        self.cache.landed(part.sequence, part.stop)

    def schedule(self, now_ms: float) -> Batch:
        """Fill the next step.

        Args:
            now_ms: time of the engine's clock, for the policy.
        """
        step = _Step(self.limits, whole=self._whole)
        ranked, arrivals = self._rank(now_ms)
        preempted: list[Sequence] = []
        paused = False
        decodes = [sequence for sequence in ranked if sequence.pending == 1]
        chunks = [sequence for sequence in ranked if sequence.pending > 1]
        for sequence in (*decodes, *chunks):
            if sequence.status is not Status.RUNNING or sequence.held:
                continue
            count = step.fit(sequence)
            if count < 1:
                continue
            if self._make_room(sequence, count, ranked, preempted):
                step.add(sequence, count)
            else:
                paused = True
        if not preempted and not paused:
            self._admit(arrivals, step, now_ms)
        for sequence in preempted:
            self.add(sequence)
        return tuple(step.parts)

    def _rank(
        self, now_ms: float
    ) -> tuple[list[Sequence], abc.Iterator[tuple[Sequence, abc.Sequence[Sequence]]]]:
        """The running in the policy's order; and the waiting, each with the running before it.

        The waiting come lazily, in the policy's order too.
        """
        order = iter(self.policy.order(self.waiting, self.running, now_ms))
        ranked: list[Sequence] = []
        passed: list[tuple[Sequence, abc.Sequence[Sequence]]] = []
        while len(ranked) < len(self.running):
            sequence = next(order, None)
            if sequence is None:
                raise GraphoptError(
                    "the scheduling policy left out a running sequence",
                    where=type(self.policy).__name__,
                    got=len(ranked),
                    expected=len(self.running),
                )
            if sequence.status is Status.RUNNING:
                ranked.append(sequence)
            else:
                passed.append((sequence, ranked[:]))

        def arrivals() -> abc.Iterator[tuple[Sequence, abc.Sequence[Sequence]]]:
            yield from passed
            for sequence in order:
                yield sequence, ranked

        return ranked, arrivals()

    def _make_room(
        self, sequence: Sequence, count: int, ranked: list[Sequence], preempted: list[Sequence]
    ) -> bool:
        """Give ``sequence`` blocks for ``count`` more tokens, at the cost of the least deserving.

        Whoever loses blocks ranks behind ``sequence``, a decode, so it has no part in the step yet.

        Returns:
            False if the sequence itself is the least deserving; it keeps what it has.
        """
        missing = blocks_for(sequence.computed + count, self.pool.block_size) - len(sequence.table)
        while missing > self.pool.num_free:
            victim = next(other for other in reversed(ranked) if other.status is Status.RUNNING)
            if victim is sequence:
                return False
            self.running.remove(victim)
            self.cache.end(victim)
            self.pool.free(victim.preempt())
            self.preemptions += 1
            preempted.append(victim)
        if missing > 0:
            sequence.table.extend(self.pool.allocate(missing))
        return True

    def _admit(
        self,
        arrivals: abc.Iterable[tuple[Sequence, abc.Sequence[Sequence]]],
        step: _Step,
        now_ms: float,
    ) -> None:
        """Start waiting sequences for as long as the budget, the places and the blocks last."""
        admitted: list[Sequence] = []
        for sequence, before in arrivals:
            spare = self.pool.num_free - (len(self.running) if self._grows else 0)
            if len(self.running) >= self.limits.max_num_seqs or step.tokens < 1 or spare < 1:
                break
            if sequence.held:
                continue
            if sequence.in_flight:
                break  # it lost its blocks, and a token that it draws is not known yet
            writer = self.cache.writer(sequence)
            if writer is not None and (writer in before or writer in admitted):
                continue
            found = self.cache.find(sequence)
            missing = blocks_for(sequence.target, self.pool.block_size) - len(found)
            if missing + self.pool.num_free_of(found) > spare:
                break
            sequence.computed = len(found) * self.pool.block_size
            count = step.fit(sequence)
            if count < 1:
                sequence.computed = 0
                break
            self.pool.hold(found)
            sequence.table.extend(found + self.pool.allocate(missing))
            sequence.status = Status.RUNNING
            self.cache.begin(sequence, len(found))
            self._note_admission(sequence, now_ms)
            self.running.append(sequence)
            admitted.append(sequence)
            step.add(sequence, count)
        if admitted:
            self.waiting = [item for item in self.waiting if item.status is Status.WAITING]

    def _note_admission(self, sequence: Sequence, now_ms: float) -> None:
        """What is told of a sequence that is admitted: when, and how much of it was found."""
        if sequence.preemptions:
            return
        if sequence.request.started_ms is None:
            sequence.request.started_ms = now_ms
        sequence.cached = sequence.computed
        if sequence.index == 0 and not sequence.scores_prompt and self.cache.scope is Scope.ALL:
            self.prefix_queries += sequence.num_prompt
            self.prefix_hits += sequence.cached

    def check(self) -> None:
        """Demand the invariants that hold between steps.

        Raises:
            GraphoptError: a block is leaked or wrongly shared, a sequence stands in the wrong
                list, or one has fewer blocks than computed tokens.
        """
        size = self.pool.block_size
        self.pool.check(sequence.table.tolist() for sequence in self.running)
        for sequence in self.waiting:
            if sequence.status is not Status.WAITING or len(sequence.table) or sequence.computed:
                raise GraphoptError("a waiting sequence holds something", got=sequence)
        tickets = [sequence.ticket for sequence in self.waiting]
        if tickets != sorted(set(tickets)):
            raise GraphoptError("the waiting are not in order of arrival", got=tickets)
        if len(self.running) > self.limits.max_num_seqs:
            raise GraphoptError("too many sequences run", got=len(self.running))
        for sequence in self.running:
            idle = sequence.pending < 1 and not sequence.in_flight
            if sequence.status is not Status.RUNNING or idle:
                raise GraphoptError("a sequence runs with nothing to compute", got=sequence)
            if len(sequence.table) > blocks_for(sequence.num_tokens, size):
                raise GraphoptError("a sequence holds more blocks than it needs", got=sequence)
            if len(sequence.table) < blocks_for(sequence.computed, size):
                raise GraphoptError("a sequence holds fewer blocks than it computed", got=sequence)
            if self._whole and sequence.pending:
                raise GraphoptError("a text was computed in part", got=sequence)
        self.cache.check(self.running)
        self._check_sharing()

    def _check_sharing(self) -> None:
        """Shared blocks are full, stand at the same place, and end the same context for all."""
        size = self.pool.block_size
        holders: dict[int, tuple[Sequence, int]] = {}
        for sequence in self.running:
            for place, block in enumerate(sequence.table.tolist()):
                other, where = holders.setdefault(block, (sequence, place))
                if other is sequence:
                    continue
                last = (place + 1) * size
                same = (
                    where == place
                    and sequence.request.root == other.request.root
                    and np.array_equal(sequence.tokens(0, last), other.tokens(0, last))
                )
                if not same or last > min(sequence.computed, other.computed):
                    raise GraphoptError(
                        "a KV block is shared wrongly",
                        where=f"block {block}",
                        got=f"{other} at {where} and {sequence} at {place}",
                    )


def _ticket(sequence: Sequence) -> int:
    return sequence.ticket


def _demand_whole_contexts(limits: SchedulerLimits, wants_all_rows: bool) -> None:
    """Demand that a sequence of any length that is allowed fits a step, with its rows.

    Raises:
        UsageError: it does not.
    """
    for name in ("max_num_batched_tokens", *(["max_rows"] if wants_all_rows else [])):
        if getattr(limits, name) < limits.max_model_len:
            raise UsageError(
                "this model computes a text in one step, and a full context does not fit one",
                got=f"{name} {getattr(limits, name)}",
                expected=f"at least max_model_len, {limits.max_model_len}",
                next=f"lower max_model_len, or raise {name}",
            )
