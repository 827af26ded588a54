"""Prompts of random tokens, and the mix of requests that serving is measured with."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

REQUESTS = 32
RUNNING = 16
PROMPT_TOKENS = (32, 1024)
OUTPUT_TOKENS = (16, 256)


@dataclass(frozen=True, slots=True)
class Mix:
    """Requests that come all at once.

    Attributes:
        prompts: token ids, by request.
        outputs: how many tokens each gets.
    """

    prompts: list[list[int]]
    outputs: list[int]


def random_prompts(count: int, length: int, vocab_size: int, seed: int) -> list[list[int]]:
    """So many prompts of so many random tokens."""
    rng = random.Random(seed)
    return [[rng.randrange(vocab_size) for _ in range(length)] for _ in range(count)]


def request_mix(vocab_size: int, requests: int = REQUESTS, seed: int = 0) -> Mix:
    """Requests whose lengths are log-uniform over `PROMPT_TOKENS` and `OUTPUT_TOKENS`."""
    rng = random.Random(seed)
    lengths = [
        (_log_uniform(rng, *PROMPT_TOKENS), _log_uniform(rng, *OUTPUT_TOKENS))
        for _ in range(requests)
    ]
    prompts = [[rng.randrange(vocab_size) for _ in range(prompt)] for prompt, _ in lengths]
    return Mix(prompts, [output for _, output in lengths])


def _log_uniform(rng: random.Random, low: int, high: int) -> int:
    """A whole number from `low` to `high`, every octave as likely as any other."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))
