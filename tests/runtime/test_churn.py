"""Ten thousand requests come and go: each gets its own tokens, and every block returns."""

from __future__ import annotations

import random

import pytest

from .churn import churn
from .fakes import HashExecutor, OverlappingHash, greedy, make_engine


def engine_and_answers(executor_type: type[HashExecutor]) -> tuple[object, dict]:
    rng = random.Random(3)
    prompts = [tuple(rng.randrange(13) for _ in range(rng.randint(1, 12))) for _ in range(24)]
    known = {prompt: greedy(prompt, 10) for prompt in prompts}
    engine = make_engine(
        block_size=2,
        num_blocks=24,
        max_num_seqs=6,
        max_num_batched_tokens=14,
        max_rows=8,
        max_model_len=24,
        executor_type=executor_type,
    )
    return engine, known


@pytest.mark.parametrize("executor_type", [HashExecutor, OverlappingHash])
@pytest.mark.parametrize(
    "admissions", [200, pytest.param(10_000, marks=pytest.mark.full)], ids=["some", "many"]
)
def test_everyone_gets_their_own_tokens(admissions: int, executor_type: type[HashExecutor]) -> None:
    engine, known = engine_and_answers(executor_type)
    found = churn(engine, known, admissions, seed=admissions)
    assert found.admitted == found.finished + found.aborted == admissions
    assert min(found.finished, found.aborted, found.preemptions) > 0


def test_a_wrong_token_is_seen() -> None:
    engine, known = engine_and_answers(HashExecutor)
    prompt = max(known)
    known[prompt][0] = 14
    with pytest.raises(AssertionError):
        churn(engine, known, 200, seed=1)
