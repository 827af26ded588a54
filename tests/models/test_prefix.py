"""What a family's layers keep of a prompt is found again whole: also what lies before the windows
of layers that slide, and latent keys. Tokens are transformers', with and without a prefix cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.frontend.twin import Proof
from graphopt.runtime.executors.cpp import CppExecutor
from graphopt.runtime.scheduler import SchedulerLimits
from tests.models.cases import CASES
from tests.models.harness import BLOCK, chooses_clearly, generated
from tests.models.native import Checkpoint
from tests.runtime.prefixes import alike, demand_same_tokens

FAST = "gemma3_text"
NAMES = [name if name == FAST else pytest.param(name, marks=pytest.mark.full) for name in CASES]
LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=14, max_rows=8, max_model_len=40)
COUNT = 8


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_transformers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphopt.frontend.trace.prove", lambda *args, **named: Proof(None))
    checkpoint = Checkpoint.make(name, tmp_path / name)
    artifact = checkpoint.compile("float32")
    starts = alike(artifact.plan.limits.vocab_size, BLOCK)
    answers = {tuple(one): generated(checkpoint.exact, one, COUNT) for one in starts}
    known = {
        one: tokens
        for one, tokens in answers.items()
        if chooses_clearly(checkpoint.exact, [*one], tokens)
    }
    assert len(known) > len(starts) / 2
    executor = CppExecutor(artifact)
    found = demand_same_tokens(executor, LIMITS, known, few_blocks=11, admissions=80)
    assert found.aborted > 0
    assert found.preemptions > 0 or name != FAST  # how many there are is a matter of the prompts
    executor.close()


def test_one_of_them_has_windows_shorter_than_its_prompts() -> None:
    (_, settings) = CASES[FAST]
    assert settings["sliding_window"] < 3 * BLOCK
    assert "sliding_attention" in settings["layer_types"]
