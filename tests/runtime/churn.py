"""Thousands of random admissions, aborts and preemptions on one engine, each answer compared.

Unlike ``simulation`` it takes any executor, a GPU's too: what a prompt is followed by is known
beforehand, so that a token that came from another sequence's block is seen at once.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.runtime.engine import Engine
from graphopt.runtime.outputs import RequestOutput
from graphopt.runtime.sampling_params import SamplingParams

MOST_WAITING = 24


@dataclass(slots=True)
class Churned:
    """What happened."""

    admitted: int = 0
    finished: int = 0
    aborted: int = 0
    preemptions: int = 0
    steps: int = 0


def churn(
    engine: Engine, known: Mapping[tuple[int, ...], Sequence[int]], admissions: int, seed: int
) -> Churned:
    """Admit so many requests, abort every tenth or so, and let the rest end.

    The engine's invariants are demanded after every step.

    Args:
        engine: with few blocks, so that sequences lose theirs.
        known: prompts, and the greedy tokens that follow each.
        admissions: how many.
        seed: of everything random.
    """
    rng = random.Random(seed)
    prompts = sorted(known)
    asked: dict[str, tuple[tuple[int, ...], int]] = {}
    found = Churned()

    def ended(output: RequestOutput) -> None:
        prompt, count = asked.pop(output.request_id)
        if output.error is not None:
            raise output.error
        (sample,) = output.completions
        expected = tuple(known[prompt][:count])
        if sample.finish_reason == "abort":
            found.aborted += 1
            assert sample.token_ids == expected[: len(sample.token_ids)], prompt
        else:
            found.finished += 1
            assert sample.token_ids == expected, prompt
        found.preemptions += output.metrics.preemptions

    while found.admitted < admissions or engine.has_work:
        while found.admitted < admissions and len(asked) < rng.randrange(MOST_WAITING):
            prompt = rng.choice(prompts)
            count = rng.randint(1, len(known[prompt]))
            name = str(found.admitted)
            params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
            asked[name] = prompt, count
            engine.add_request(name, prompt, params, priority=rng.randrange(3))
            found.admitted += 1
        if asked and rng.random() < 0.02:
            output = engine.abort(rng.choice(sorted(asked)))
            assert output is not None
            ended(output)
            engine.check()
        for output in engine.step().finished:
            ended(output)
        engine.check()
        found.steps += 1
    assert not asked, "a request was never answered"
    assert engine.kv_usage == 0.0, "a block did not come back"
    return found
