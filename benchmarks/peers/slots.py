"""Continuous batching over a fixed number of slots, for an engine that only computes batches.

As llama.cpp's own server does it: a batch has the next token of every slot that generates, then
prompt tokens of the other slots, first come first served, until the batch is full; a slot whose
request has ended takes the next one that waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Part:
    """What a batch has of one slot.

    Attributes:
        slot: number of the slot.
        tokens: the tokens to compute.
        position: of the first of them in its sequence.
        wants_token: whether the token after the last one is asked for.
    """

    slot: int
    tokens: tuple[int, ...]
    position: int
    wants_token: bool


@dataclass(slots=True)
class _Request:
    """A request in a slot: its tokens so far, and how many of them were computed."""

    number: int
    tokens: list[int]
    left: int
    computed: int = 0


@dataclass(slots=True)
class Slots:
    """Requests that wait, run or have ended.

    Args:
        prompts: token ids of every request.
        outputs: how many tokens each gets, at least one.
        slots: how many run at once.
        batch_tokens: most tokens in a batch, at least one per slot.
    """

    prompts: list[list[int]]
    outputs: list[int]
    slots: int
    batch_tokens: int
    counts: list[int] = field(init=False)
    _waiting: deque[int] = field(init=False)
    _running: dict[int, _Request] = field(init=False, default_factory=dict)
    _batch: list[Part] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.batch_tokens < self.slots or min(self.outputs, default=1) < 1:
            raise ValueError("a batch must hold a token a slot, and a request ask for one")
        self.counts = [0] * len(self.prompts)
        self._waiting = deque(range(len(self.prompts)))

    def next_batch(self) -> list[Part]:
        """What to compute next; empty when all requests have ended."""
        for slot in range(self.slots):
            if slot not in self._running and self._waiting:
                number = self._waiting.popleft()
                self._running[slot] = _Request(
                    number, list(self.prompts[number]), self.outputs[number]
                )
        room = self.batch_tokens
        parts = []
        # Slots that generate come first; the others by the age of their request.
        order = sorted(
            self._running.items(), key=lambda item: (self._prompt_left(item[1]), item[1].number)
        )
        for slot, request in order:
            pending = request.tokens[request.computed : request.computed + room]
            if pending:
                whole = request.computed + len(pending) == len(request.tokens)
                parts.append(Part(slot, tuple(pending), request.computed, whole))
                room -= len(pending)
        self._batch = parts
        return parts

    def accept(self, tokens: list[int]) -> list[int]:
        """Take the tokens of the parts that wanted one; returns the slots that are free now."""
        found = iter(tokens)
        free = []
        for part in self._batch:
            request = self._running[part.slot]
            request.computed += len(part.tokens)
            if not part.wants_token:
                continue
            request.tokens.append(next(found))
            request.left -= 1
            self.counts[request.number] += 1
            if not request.left:
                del self._running[part.slot]
                free.append(part.slot)
        return free

    @staticmethod
    def _prompt_left(request: _Request) -> bool:
        """Whether more than the latest token is still to be computed."""
        return len(request.tokens) - request.computed > 1
