"""`generate` with a static cache gives the tokens of the eager adapter, and scores are its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.engines import gpu_hf, gpu_hf_wide, hf
from benchmarks.peers.mix import random_prompts
from benchmarks.peers.runner import Job

EXAMPLE = Path(__file__).parent.parent.parent.parent.parent / "examples" / "demo-llama"


@pytest.mark.slow
def test_batches_and_scores() -> None:
    job = Job(EXAMPLE, threads=1, sequences=2, context=64)
    engines = [gpu_hf.Engine(job), gpu_hf_wide.Engine(job), hf.Engine(job)]
    for engine in engines:
        engine.import_engine()
        engine.load()
    static, wide, eager = engines
    prompts = random_prompts(2, 12, 200, seed=0)
    found = static.generate(prompts, 5)
    assert found.tokens == eager.generate(prompts, 5).tokens
    assert found.first_s > 0
    assert found.decode_s > 0
    assert len(static.generate(prompts, 0).tokens[0]) == 1
    exact, near = wide.score(prompts), static.score(prompts)
    assert [len(row) for row in near] == [11, 11]
    assert exact != near
    for one, other in zip(exact, near, strict=True):
        assert one == pytest.approx(other, abs=0.3)
    assert static.serve(prompts, [2, 3]).counts == [2, 3]
