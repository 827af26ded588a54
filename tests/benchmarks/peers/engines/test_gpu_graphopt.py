"""Prompts come in over several steps; what is timed are steps of all of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.peers.engines.gpu_graphopt import Engine
from benchmarks.peers.runner import Job
from graphopt import SamplingParams
from graphopt.runtime.capture_plan import CapturePlan
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


class Captured(HashExecutor):
    """Tells what an executor with captured decodes does; a step copies twelve bytes."""

    def __init__(self, is_captured: bool = True) -> None:
        super().__init__()
        self.is_captured, self.asked = is_captured, 0
        plan = CapturePlan((4,), (), 3, (7,), ())
        self.captures = SimpleNamespace(took_s=1.5, measured=plan)

    @property
    def copied_bytes(self) -> int:
        return 12 * self.steps

    def again(self, count: int) -> bool:
        self.asked += count
        return self.is_captured


def test_what_a_gpu_does_in_a_step_is_told(engine: Engine) -> None:
    assert engine.facts() == {}
    with pytest.raises(NotImplementedError, match="not captured"):
        engine.steady([[1, 2]], 4)
    executor = engine.llm.engine._executor = engine.llm.engine._runner.executor = Captured()
    executor.allocate(64)
    found = engine.steady([[1, 2, 3], [4, 5, 6]], 4)
    assert found.copied_bytes == 12
    assert found.step_s > found.device_s >= 0
    assert executor.asked == 4
    assert not engine.llm.engine.has_work
    assert engine.facts()["capture_s"] == 1.5
    assert engine.facts()["captures"]["decode"] == [{"sequences": 4, "bytes": 7}]
    executor.is_captured = False
    with pytest.raises(RuntimeError, match="2 sequences are not captured"):
        engine.steady([[1, 2, 3], [4, 5, 6]], 4)
    assert not engine.llm.engine.has_work


def test_scores_of_all_tokens_but_the_first(engine: Engine) -> None:
    (found,) = engine.score([[1, 2, 3]])
    assert found == engine.llm.score([1, 2, 3])[1:]
