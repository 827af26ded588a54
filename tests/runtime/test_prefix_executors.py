"""Keys and values that are found again are those that would be computed: on each executor, prompts
that begin alike get the tokens of the interpreter or of transformers, with and without a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from graphopt.artifact import Artifact
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import Executor
from graphopt.runtime.executors.cpp import CppExecutor
from graphopt.runtime.executors.torch import TorchExecutor
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits

from .fakes import run_all
from .native_decoder import BLOCK, write_native
from .prefixes import alike, demand_same_tokens
from .tiny_decoder import VOCAB, Oracle, write_decoder

LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=10, max_rows=8, max_model_len=40)
COUNT = 6


def known_of_the_oracle() -> dict[tuple[int, ...], list[int]]:
    oracle = Oracle()
    return {tuple(one): oracle.greedy(one, COUNT) for one in alike(VOCAB, BLOCK)}


@pytest.mark.parametrize(
    ("write", "open_executor"),
    [(write_native, CppExecutor), (write_decoder, TorchExecutor)],
    ids=["cpp", "torch"],
)
def test_tokens_are_those_of_the_interpreter(
    write: Callable[[Path], Artifact], open_executor: Callable[[Artifact], Executor], tmp_path: Path
) -> None:
    executor = open_executor(write(tmp_path / "tiny.gopt"))
    known = known_of_the_oracle()
    found = demand_same_tokens(executor, LIMITS, known, few_blocks=10, admissions=150)
    assert min(found.aborted, found.preemptions) > 0
    executor.close()


@pytest.mark.interpreted
def test_tokens_on_a_simulated_gpu_are_those_of_transformers() -> None:
    """Two prompts find what a third has left, and are computed together with steps that overlap."""
    from graphopt.runtime.executors.gpu.executor import CudaExecutor
    from tests.models.harness import generated

    from .executors.gpu.interpreted_artifact import reference_of, tiny
    from .executors.gpu.interpreted_device import InterpretedDevice

    artifact = tiny(block_size=16)
    text = alike(artifact.plan.limits.vocab_size, 16, blocks=(1,))[2]
    prompts = {"first": text, "again": text, "longer": [*text, 5, 4]}
    limits = SchedulerLimits(4, max_num_batched_tokens=24, max_rows=8, max_model_len=32)
    executor = CudaExecutor(artifact, InterpretedDevice(), limits)
    engine = Engine(executor, EngineConfig(limits, num_blocks=8))
    outputs = {}
    for names in (["first"], ["again", "longer"]):
        for name in names:
            params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
            engine.add_request(name, prompts[name], params)
        outputs |= run_all(engine)
    reference = reference_of(artifact)
    for name, prompt in prompts.items():
        assert list(outputs[name].token_ids) == generated(reference, prompt, 2)
        assert outputs[name].metrics.cached_tokens == (0 if name == "first" else 16)
    executor.close()
