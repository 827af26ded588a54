"""Prompts come in over several steps; what is timed are steps of all of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.peers.engines.gpu_graphopt import Engine
from benchmarks.peers.runner import Job
from graphopt import SamplingParams
from graphopt.runtime.llm import LLM
from tests.runtime.fakes import FakeModel, HashExecutor, greedy, small_plan


@pytest.fixture
def engine(tmp_path) -> Engine:
    made = Engine(Job(tmp_path, threads=1, sequences=3, context=64))
    made.graphopt = SimpleNamespace(SamplingParams=SamplingParams, __version__="0")
    model = FakeModel(small_plan())
    made.llm = LLM(model, executor=HashExecutor(), max_num_seqs=3, max_num_batched_tokens=4)
    made.requests = 0
    return made


def test_chunks_then_timed_steps(engine: Engine) -> None:
    prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    found = engine.generate(prompts, 5)
    assert [one[:6] for one in found.tokens] == [greedy(prompt, 6) for prompt in prompts]
    assert not engine.llm.engine.has_work  # what is left of the requests was dropped
    assert [len(one) for one in engine.generate(prompts, 0).tokens] == [1, 1, 1]
    assert not engine.llm.engine.has_work


def test_scores_of_all_tokens_but_the_first(engine: Engine) -> None:
    (found,) = engine.score([[1, 2, 3]])
    assert found == engine.llm.score([1, 2, 3])[1:]
