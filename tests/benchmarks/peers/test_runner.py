"""An engine that is driven step by step gives each prompt its tokens, and times both parts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.peers.runner import Job, Prompts, StepRunner


class Counter(StepRunner):
    """Counts on from the last token of each prompt."""

    def import_engine(self) -> None:
        pass

    def load(self) -> None:
        pass

    def versions(self) -> dict[str, str]:
        return {}

    def weight_bytes(self) -> int:
        return 0

    def prefill(self, prompts: Prompts, steps: int) -> list[int]:
        time.sleep(0.02)
        return [prompt[-1] + 1 for prompt in prompts]

    def step(self, tokens: list[int]) -> list[int]:
        return [token + 1 for token in tokens]


def test_tokens_are_by_prompt() -> None:
    counter = Counter(Job(Path(), 1, 2, 10))
    found = counter.generate([[0, 5], [0, 8]], 3)
    assert found.tokens == [[6, 7, 8, 9], [9, 10, 11, 12]]
    assert found.first_s > 0.02 > found.decode_s
    assert counter.generate([[1]], 0).tokens == [[2]]


def test_without_continuous_batching_serving_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="no continuous batching"):
        Counter(Job(Path(), 1, 2, 10)).serve([[1]], [1])
