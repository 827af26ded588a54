"""Slots give every request its tokens, keep batches full, and refill at once."""

from __future__ import annotations

import random

import pytest

from benchmarks.peers.slots import Part, Slots


def run(slots: Slots) -> list[list[Part]]:
    """All batches; the token after n tokens of a sequence is n."""
    batches = []
    while batch := slots.next_batch():
        batches.append(batch)
        tokens = [part.position + len(part.tokens) for part in batch if part.wants_token]
        slots.accept(tokens)
    return batches


def test_a_long_prompt_is_split_and_decoding_goes_on_beside_it() -> None:
    slots = Slots([[1, 2], [1] * 9], [5, 1], slots=2, batch_tokens=6)
    assert run(slots) == [
        [Part(0, (1, 2), 0, True), Part(1, (1,) * 4, 0, False)],
        [Part(0, (2,), 2, True), Part(1, (1,) * 5, 4, True)],
        [Part(0, (3,), 3, True)],
        [Part(0, (4,), 4, True)],
        [Part(0, (5,), 5, True)],
    ]
    assert slots.counts == [5, 1]


def test_a_free_slot_takes_the_next_request_at_once() -> None:
    slots = Slots([[1], [1, 2, 3], [1, 2]], [1, 3, 2], slots=2, batch_tokens=100)
    first = slots.next_batch()
    assert [part.slot for part in first] == [0, 1]
    assert slots.accept([7, 8]) == [0]
    second = slots.next_batch()
    assert second == [Part(1, (8,), 3, True), Part(0, (1, 2), 0, True)]


def test_any_mix_is_answered_in_full() -> None:
    rng = random.Random(5)
    for _ in range(50):
        count, running = rng.randint(1, 12), rng.randint(1, 5)
        prompts = [[1] * rng.randint(1, 40) for _ in range(count)]
        outputs = [rng.randint(1, 9) for _ in range(count)]
        slots = Slots(prompts, outputs, running, batch_tokens=rng.randint(running, 30))
        batches = run(slots)
        assert slots.counts == outputs
        for batch in batches:
            assert sum(len(part.tokens) for part in batch) <= slots.batch_tokens
            assert len({part.slot for part in batch}) == len(batch) <= running
        computed = sum(len(part.tokens) for batch in batches for part in batch)
        assert computed == sum(len(one) for one in prompts) + sum(outputs) - count


def test_what_cannot_be_batched_is_refused() -> None:
    with pytest.raises(ValueError, match="token a slot"):
        Slots([[1]], [1], slots=4, batch_tokens=3)
    with pytest.raises(ValueError, match="ask for one"):
        Slots([[1]], [0], slots=1, batch_tokens=3)
