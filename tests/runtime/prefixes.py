"""Prompts that begin alike, and what engines make of them with and without a prefix cache."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import Executor
from graphopt.runtime.outputs import RequestOutput
from graphopt.runtime.prefix_cache import Scope
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits

from .churn import Churned, churn

Known = Mapping[tuple[int, ...], Sequence[int]]


def alike(vocabulary: int, block: int, blocks: Sequence[int] = (1, 3, 6)) -> list[list[int]]:
    """Prompts of one text that end before, at and after the end of a block; and some of them with
    another end, which begins in the middle of a block and at one's end."""
    rng = random.Random(vocabulary)
    text = [rng.randrange(vocabulary) for _ in range(max(blocks) * block + 1)]
    cut = [text[: number * block + more] for number in blocks for more in (-1, 0, 1)]
    end = [rng.randrange(vocabulary) for _ in range(block + 2)]
    return [one for one in cut if one] + [[*one[: len(one) - block // 2], *end] for one in cut[-3:]]


def in_turn(
    executor: Executor, limits: SchedulerLimits, known: Known, num_blocks: int, scope: Scope
) -> int:
    """Ask each prompt twice, one after the other, and compare; the prompt tokens computed."""
    engine = Engine(executor, EngineConfig(limits, num_blocks, prefix_scope=scope))
    size = executor.block_size
    for turn in range(2):
        for number, (prompt, tokens) in enumerate(known.items()):
            name = f"{turn}.{number}"
            params = SamplingParams(max_tokens=len(tokens), temperature=0.0, ignore_eos=True)
            engine.add_request(name, prompt, params)
            output = _run(engine, name)
            assert output.token_ids == tuple(tokens), (scope, turn, prompt)
            if turn and scope is Scope.ALL:
                assert output.metrics.cached_tokens == (len(prompt) - 1) // size * size
    totals = engine.totals
    return totals.prompt_tokens - totals.prefix_hits


def _run(engine: Engine, name: str) -> RequestOutput:
    while engine.has_work:
        for output in engine.step().finished:
            if output.request_id == name:
                assert output.error is None
                return output
        engine.check()
    raise AssertionError(f"{name} did not end")


def demand_same_tokens(
    executor: Executor,
    limits: SchedulerLimits,
    known: Known,
    *,
    few_blocks: int,
    admissions: int,
) -> Churned:
    """Prompts get the tokens that are known with and without a prefix cache: one after the other,
    and among others with so few blocks that some lose theirs, and some are aborted."""
    enough = sum(-(-(len(one) + len(known[one])) // executor.block_size) for one in known)
    with_it, without = (
        in_turn(executor, limits, known, enough, scope) for scope in (Scope.ALL, Scope.REQUEST)
    )
    assert without == 2 * sum(map(len, known))
    assert with_it < without / 2
    engine = Engine(executor, EngineConfig(limits, few_blocks))
    found = churn(engine, known, admissions, seed=admissions)
    assert engine.totals.prefix_hits > 0
    return found
