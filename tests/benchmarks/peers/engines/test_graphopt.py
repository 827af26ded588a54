"""The adapter of graphopt generates what `LLM.generate` does, in batches and in a mix."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphopt as package
from benchmarks.peers.engines.graphopt import Engine
from benchmarks.peers.mix import random_prompts
from benchmarks.peers.runner import Job

EXAMPLE = Path(__file__).parent.parent.parent.parent.parent / "examples" / "demo-llama"


@pytest.mark.slow
def test_batches_and_a_mix(tmp_path: Path) -> None:
    artifact = tmp_path / "demo.gopt"
    package.compile_checkpoint(EXAMPLE, artifact, dtype="float32")
    engine = Engine(Job(artifact, threads=1, sequences=2, context=64))
    engine.import_engine()
    engine.load()
    prompts = random_prompts(2, 12, 200, seed=0)
    found = engine.generate(prompts, 5)
    params = package.SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    with package.LLM(artifact) as llm:
        expected = [list(one.token_ids) for one in llm.generate(prompts, params)]
    assert found.tokens == expected
    assert found.first_s > 0 < found.decode_s
    mixed = [random_prompts(1, length, 200, seed=length)[0] for length in (3, 30, 9, 17)]
    assert engine.serve(mixed, [4, 1, 9, 2]).counts == [4, 1, 9, 2]
    assert engine.generate(prompts, 0).tokens == [one[:1] for one in expected]
    assert engine.weight_bytes() > 0
    assert engine.versions()["graphopt"] == package.__version__
