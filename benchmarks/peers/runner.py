"""What a benchmark asks of every engine.

    engine = Engine(Job(path, threads=2, sequences=16, context=2048))
    engine.import_engine(); engine.load()
    engine.generate(prompts, steps)           # equally long prompts as one batch, then greedy steps
    engine.serve(prompts, outputs)            # all requests at once, `sequences` of them running

This module needs nothing but Python, so that an engine can live in an environment of its own.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Prompts = list[list[int]]


@dataclass(frozen=True, slots=True)
class Job:
    """How to run an engine.

    Attributes:
        path: the model, a file or a folder in the engine's own format.
        threads: how many compute.
        sequences: most sequences that run at once.
        context: longest prompt and output together, in tokens.
    """

    path: Path
    threads: int
    sequences: int
    context: int


@dataclass(frozen=True, slots=True)
class Generation:
    """One batch.

    Attributes:
        first_s: seconds to the first token of every prompt.
        decode_s: seconds of the steps after it.
        tokens: what was generated, by prompt: the first token and one for each step.
    """

    first_s: float
    decode_s: float
    tokens: list[list[int]]


@dataclass(frozen=True, slots=True)
class Serving:
    """Many requests.

    Attributes:
        seconds: from the first request to the last token.
        counts: tokens that were generated, by request.
    """

    seconds: float
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Steady:
    """Decode steps of one batch on a GPU.

    Attributes:
        step_s: seconds of a step, the host's part in them.
        device_s: seconds that the device computes of these.
        copied_bytes: that the host copied to the device in a step.
    """

    step_s: float
    device_s: float
    copied_bytes: float


class Runner(ABC):
    """An engine: made, imported and loaded apart, so that each can be timed."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @abstractmethod
    def import_engine(self) -> None:
        """Import the engine's modules."""

    @abstractmethod
    def load(self) -> None:
        """Load the model, ready to generate."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """The versions of the engine and of what it stands on."""

    @abstractmethod
    def weight_bytes(self) -> int:
        """Bytes of weights that a decode step has to read.

        Scales and zero points are counted, and the output head; an input embedding is not, unless
        it is the output head too: a step reads a few rows of it.
        """

    @abstractmethod
    def generate(self, prompts: Prompts, steps: int) -> Generation:
        """Compute equally long prompts as one batch, then `steps` further greedy tokens each."""

    @abstractmethod
    def serve(self, prompts: Prompts, outputs: list[int]) -> Serving:
        """Answer all prompts, each with exactly so many tokens.

        Raises:
            NotImplementedError: the engine has no continuous batching.
        """

    def facts(self) -> dict[str, Any]:
        """What else is to be told of the engine once it is loaded, as plain data."""
        return {}

    def steady(self, prompts: Prompts, steps: int) -> Steady:
        """How much of a decode step a GPU computes, and what is copied to it.

        Raises:
            NotImplementedError: the engine tells nothing of it.
        """
        raise NotImplementedError(f"{type(self).__module__} does not tell what a GPU does")

    def score(self, prompts: Prompts) -> list[list[float]]:
        """Log-probability of each token but the first, given those before it, by prompt.

        Raises:
            NotImplementedError: the engine tells none.
        """
        raise NotImplementedError(f"{type(self).__module__} tells no log-probabilities")


class StepRunner(Runner):
    """An engine that is driven step by step."""

    @abstractmethod
    def prefill(self, prompts: Prompts, steps: int) -> list[int]:
        """Forget everything, compute `prompts`, and return the next token of each."""

    @abstractmethod
    def step(self, tokens: list[int]) -> list[int]:
        """Append a token to each sequence and return the next one of each."""

    def generate(self, prompts: Prompts, steps: int) -> Generation:
        """See :class:`Runner`."""
        started = time.perf_counter()
        tokens = self.prefill(prompts, steps)
        first = time.perf_counter()
        history = [tokens]
        for _ in range(steps):
            tokens = self.step(tokens)
            history.append(tokens)
        ended = time.perf_counter()
        by_prompt = [list(row) for row in zip(*history, strict=True)]
        return Generation(first - started, ended - first, by_prompt)

    def serve(self, prompts: Prompts, outputs: list[int]) -> Serving:
        """See :class:`Runner`."""
        raise NotImplementedError(f"{type(self).__module__} has no continuous batching")
