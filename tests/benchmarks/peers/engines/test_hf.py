"""The adapter of transformers gives the tokens of its own `generate`, in batches and in a mix."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.engines.hf import Engine
from benchmarks.peers.mix import random_prompts
from benchmarks.peers.runner import Job

EXAMPLE = Path(__file__).parent.parent.parent.parent.parent / "examples" / "demo-llama"


@pytest.mark.slow
def test_batches_and_a_mix() -> None:
    engine = Engine(Job(EXAMPLE, threads=1, sequences=2, context=64))
    engine.import_engine()
    engine.load()
    prompts = random_prompts(2, 12, 200, seed=0)
    found = engine.generate(prompts, 5)
    ids = engine.torch.tensor(prompts)
    own = engine.model.generate(
        ids,
        attention_mask=engine.torch.ones_like(ids),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=-1,
        pad_token_id=0,
    )
    assert found.tokens == own[:, 12:].tolist()
    assert engine.weight_bytes() == sum(one.nbytes for one in engine.model.parameters())
    mixed = [random_prompts(1, length, 200, seed=length)[0] for length in (3, 30, 9, 17)]
    assert engine.serve(mixed, [4, 2, 9, 3]).counts == [4, 2, 9, 3]
    assert engine.generate(prompts, 5).tokens == found.tokens
