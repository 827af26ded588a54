"""Where each constrained sample stands in its grammar, and the threads that find out.

Most masks take some microseconds, but what a request sends can make one take a second. So grammars
are compiled and masks computed on threads of their own, without Python's lock, and a sample takes
part in a step only when its mask is there: the engine waits for masks a few milliseconds, and goes
on without those that are late. A sample that was late once has its next masks computed apart from
the others'.

Compiled grammars are kept in memory, the ones used last, and never on disk.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import llguidance

from graphopt.errors import GraphoptError, RequestError

from .constraint import Constraint
from .grammar import U32, Grammar, Vocabulary, compile_grammar, next_mask

# How long a step waits for masks: as long as a step of a small model takes.
PATIENCE_S = 0.005
# A mask that takes so long is computed apart, one that takes this long is given up, and a sample
# may not take longer than that for all of its masks but for quick ones.
LATE_S, MOST_S, MOST_IN_ALL_S = 0.01, 5.0, 20.0
COMPILE_S = 30.0  # the first time a large vocabulary is prepared, which may take seconds
# Kept grammars: measured, about 80 KB each, sixteen times their source, and what their automata
# grow to, which no more than 30 MB a second of computing were seen to do.
CACHE_BYTES = 64 << 20
_GRAMMAR_BYTES, _BYTES_A_CHAR, _BYTES_A_SECOND = 80 << 10, 16, 30 << 20


class Matcher:
    """One sample in its grammar. Its mask is that of the tokens it was told of.

    Args:
        constraint: what was compiled.
        compiling: what comes of that.
        stop_ids: tokens that end the sample: they can be chosen where the text may end, and are not
            part of it.

    Attributes:
        error: why it cannot go on.
        ended: whether nothing can follow.
    """

    def __init__(
        self, constraint: Constraint, compiling: Future[Grammar], stop_ids: frozenset[int]
    ) -> None:
        self.constraint = constraint
        self.error: GraphoptError | None = None
        self.ended = False
        self.is_late = False
        self._stop_ids = stop_ids
        self._compiling = compiling
        self._grammar: Grammar | None = None
        self._inner: llguidance.LLMatcher | None = None
        self._mask: U32 | None = None
        self._busy: Future[None] | None = None
        self._since_s = time.monotonic()
        self._spent_s = 0.0

    @property
    def awaited(self) -> Future[Grammar] | Future[None] | None:
        """What it waits for; None for nothing."""
        if self.error is not None:
            return None
        busy = self._busy if self._inner is not None else self._compiling
        return None if busy is None or busy.done() else busy

    @property
    def ready(self) -> bool:
        """Whether it is known what can follow; an error is that, too."""
        if self.awaited is not None:
            most = COMPILE_S if self._inner is None else MOST_S
            if time.monotonic() - self._since_s < most:
                return False
            self.error = _too_slow(self.constraint, most)
        elif self._inner is None and self.error is None:
            self._begin()
        return True

    @property
    def mask(self) -> U32:
        """u32[ceil(V / 32)], the tokens that can follow, once it is ready.

        Raises:
            GraphoptError: it is not.
        """
        if self._mask is None:
            raise GraphoptError("a mask is asked for before it is there", got=self.constraint.kind)
        return self._mask

    def _begin(self) -> None:
        try:
            grammar = self._compiling.result(0)
        except GraphoptError as error:
            self.error = error
            return
        self._grammar, self._inner = grammar, grammar.start.deep_copy()
        self._show(grammar.mask, accepts=grammar.accepts)
        self.ended = grammar.accepts and not grammar.mask.any()

    def _show(self, mask: U32, *, accepts: bool) -> None:
        """Take a new mask, with the tokens that end the sample if the text may end."""
        found = mask.copy()
        for token in self._stop_ids:
            bit = 1 << token % 32
            if accepts:
                found[token // 32] |= bit
            else:
                found[token // 32] &= ~bit & 0xFFFFFFFF
        self._mask = found

    def set_out(self) -> Future[None]:
        """A token was drawn, and somebody is about to ``follow`` it; the answer is theirs."""
        self._busy, self._since_s = Future(), time.monotonic()
        return self._busy

    def follow(self, token: int, done: Future[None]) -> None:
        """Go on by a token and compute the mask; on a thread, and it raises nothing."""
        begun_s = time.monotonic()
        try:
            self._follow(token)
        except BaseException as error:  # noqa: BLE001 (a panic of the library is no Exception)
            self.error = _broken("followed", error)
        took_s = time.monotonic() - begun_s
        if self._grammar is not None:
            self._grammar.spent_s += took_s
        self.is_late = took_s > LATE_S
        if self.is_late:
            self._spent_s += took_s
            if self._spent_s > MOST_IN_ALL_S:
                self.error = self.error or _too_slow(self.constraint, MOST_IN_ALL_S)
        done.set_result(None)

    def _follow(self, token: int) -> None:
        inner, grammar = self._inner, self._grammar
        if inner is None or grammar is None:
            raise GraphoptError("a token came before the grammar was compiled", got=token)
        if inner.consume_token(token):
            self.ended = inner.is_stopped()
            if not self.ended:
                mask = next_mask(inner, grammar.vocabulary)
                self._show(mask, accepts=inner.is_accepting())
                # Some ends are seen late.
                self.ended = inner.is_stopped() and not inner.is_error()
        if inner.is_error():
            self.error = RequestError(
                f"the constraint of kind {self.constraint.kind} cannot be followed further",
                got=inner.get_error().replace("<non-verbose/>", "").strip()[:400],
                next="simplify it",
            )


class Matchers:
    """Compiles the constraints of a model's requests, and follows their samples.

    Args:
        vocabulary: makes the model's vocabulary, on a thread when it is needed first.
    """

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        self._make = vocabulary
        self._vocabulary: Vocabulary | None = None
        self._compilers, self._quick, self._late = (
            ThreadPoolExecutor(1, f"graphopt-{name}") for name in ("grammar", "mask", "late-mask")
        )
        self._kept: OrderedDict[Constraint, Future[Grammar]] = OrderedDict()

    def matcher(self, constraint: Constraint, stop_ids: frozenset[int]) -> Matcher:
        """A sample at its beginning; it is ready when the constraint is compiled."""
        compiling = self._kept.pop(constraint, None)
        if compiling is None or (compiling.done() and compiling.exception() is not None):
            compiling = self._compilers.submit(self._compile, constraint)
        self._kept[constraint] = compiling
        self._forget()
        return Matcher(constraint, compiling, stop_ids)

    def advance(self, moves: Sequence[tuple[Matcher, int]]) -> None:
        """Let samples go on by a token each, on threads."""
        jobs = [(matcher, token, matcher.set_out()) for matcher, token in moves]
        together = [job for job in jobs if not job[0].is_late]
        if together:
            self._quick.submit(_follow_all, together)
        for job in jobs:
            if job[0].is_late:
                self._late.submit(_follow_all, [job])

    def wait(self, matchers: Iterable[Matcher], *, for_late: bool = False) -> None:
        """Wait a little for those that are not ready; for late ones only if asked to."""
        awaited = [matcher.awaited for matcher in matchers if for_late or not matcher.is_late]
        pending: list[Future[Any]] = [one for one in awaited if one is not None]
        wait(pending, timeout=PATIENCE_S)

    def close(self) -> None:
        """Start nothing any more."""
        for threads in (self._compilers, self._quick, self._late):
            threads.shutdown(wait=False, cancel_futures=True)

    def _compile(self, constraint: Constraint) -> Grammar:
        try:
            if self._vocabulary is None:
                self._vocabulary = self._make()
            return compile_grammar(constraint, self._vocabulary)
        except GraphoptError:
            raise
        except BaseException as error:  # a panic of the library is no Exception
            raise _broken("compiled", error) from error

    def _forget(self) -> None:
        """Drop the grammars that were not used for longest, beyond what may be kept."""
        cost = sum(_bytes_of(*one) for one in self._kept.items())
        for constraint in list(self._kept)[:-1]:
            if cost <= CACHE_BYTES:
                return
            cost -= _bytes_of(constraint, self._kept.pop(constraint))


def _follow_all(jobs: list[tuple[Matcher, int, Future[None]]]) -> None:
    for matcher, token, done in jobs:
        matcher.follow(token, done)


def _bytes_of(constraint: Constraint, compiling: Future[Grammar]) -> int:
    """About what a grammar takes: nobody says how large automata are, but they take time."""
    spent_s = 0.0
    if compiling.done() and compiling.exception() is None:
        spent_s = compiling.result().spent_s
    own = _GRAMMAR_BYTES + _BYTES_A_CHAR * len(constraint.source)
    return own + int(_BYTES_A_SECOND * spent_s)


def _broken(how: str, error: BaseException) -> GraphoptError:
    return GraphoptError(f"a constraint could not be {how}", got=f"{type(error).__name__}: {error}")


def _too_slow(constraint: Constraint, most_s: float) -> RequestError:
    return RequestError(
        f"the constraint of kind {constraint.kind} takes too long",
        expected=f"at most {most_s:g} s",
        next="simplify it: bounds of repetitions inside repetitions are what costs most",
    )
