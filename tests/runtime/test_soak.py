"""Minutes of random load on a real model: every block comes back, and memory stays flat."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import psutil
import pytest

import graphopt
from graphopt import api
from graphopt.errors import CapacityError
from tests.checkpoints import save_tiny

MINUTES = float(os.environ.get("GRAPHOPT_SOAK_MINUTES", "3"))


@pytest.mark.soak
def test_random_load_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gopt"
    api.compile_checkpoint(save_tiny(tmp_path / "tiny"), path, block_size=4)
    rng = random.Random(0)
    process = psutil.Process()
    samples: list[int] = []
    text = [rng.randrange(3, 97) for _ in range(100)]
    done = refused = aborted = 0
    with graphopt.LLM(path, kv_cache_memory=1 << 18, max_num_batched_tokens=32) as llm:
        ends = time.monotonic() + 60 * MINUTES
        while time.monotonic() < ends:
            prompts = [
                [rng.randrange(3, 97) for _ in range(rng.randint(1, 140))]
                for _ in range(rng.randint(1, 12))
            ]
            prompts += [text[: rng.randint(1, len(text))] for _ in range(rng.randint(0, 4))]
            for prompt in list(prompts):
                if len(prompt) >= llm.max_model_len:
                    with pytest.raises(CapacityError):
                        llm.generate([prompt])
                    prompts.remove(prompt)
                    refused += 1
            params = graphopt.SamplingParams(
                max_tokens=rng.randint(1, 40),
                temperature=rng.choice([0.0, 1.0]),
                n=rng.randint(1, 3),
            )
            done += len(llm.generate(prompts, params))
            stream = llm.stream([5, 6, 7], graphopt.SamplingParams(max_tokens=50, ignore_eos=True))
            for _ in range(rng.randint(1, 5)):
                next(stream)
            stream.close()
            aborted += 1
            llm.engine.check()
            assert not llm.engine.has_work
            samples.append(process.memory_info().rss)
        assert llm.engine.totals.prefix_hits > 0
    half = samples[len(samples) // 2 :]
    drift = (max(half) - min(half)) / max(half)
    print(f"{done} done, {refused} refused, {aborted} aborted, memory drift {drift:.1%}")
    assert done > 100
    assert drift < 0.05
