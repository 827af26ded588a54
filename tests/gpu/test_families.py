"""Families on the device: tokens in float32, rounding in bfloat16, and blocks under churn."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.runtime.capture_plan import NOTHING_CAPTURED, CapturePlan
from graphopt.runtime.engine import Engine, EngineConfig
from graphopt.runtime.executor import StepInputs
from graphopt.runtime.executors.gpu.driver import DriverDevice
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.executors.verification import relative_error
from graphopt.runtime.scheduler import SchedulerLimits
from tests.models import harness
from tests.models.harness import chooses_clearly, generated, mixed_step, prompts, reference_logits
from tests.models.native import BLOCKS, Checkpoint
from tests.runtime.churn import churn
from tests.runtime.executors.gpu.interpreted_artifact import greedy_through_engine

pytestmark = pytest.mark.gpu

NAMES = ("llama", "qwen3", "gemma3_text", "gpt2", "mixtral", "gpt_oss", "deepseek_v3")
DENSE = ("llama", "qwen3", "gemma3_text", "gpt2", "qwen2")
LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=64, max_rows=64, max_model_len=96)
CAPTURED = CapturePlan((1, 2, 4), (8, 16, 64), 24, (0, 0, 0), (0, 0, 0))
COUNT = 24


@cache
def target() -> str:
    """This GPU's."""
    major, minor = torch.cuda.get_device_capability()
    return f"cuda:sm_{major}{minor}"


def compiled(checkpoint: Checkpoint, dtype: str, **options: object) -> Artifact:
    output = checkpoint.folder.with_suffix(f".{dtype}.gopt")
    given = {"target": target(), "dtype": dtype, "block_size": harness.BLOCK, **options}
    return api.compile_checkpoint(checkpoint.folder, output, reuse=False, **given)


class OnDevice(harness.Engine):
    """An artifact's kernels, step by step."""

    def __init__(self, artifact: Artifact, device: DriverDevice) -> None:
        super().__init__(BLOCKS)
        self.executor = CudaExecutor(artifact, device, LIMITS)
        self.executor.allocate(BLOCKS)

    def logits(self, inputs: StepInputs) -> torch.Tensor:
        return torch.from_numpy(self.executor.logits(inputs))


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_transformers(name: str, device: DriverDevice, tmp_path: Path) -> None:
    checkpoint = Checkpoint.make(name, tmp_path / name)
    artifact = compiled(checkpoint, "float32")
    starts = prompts(artifact.plan.limits.vocab_size, (41, 9, 1, 30), seed=3)
    expected = [generated(checkpoint.exact, tokens, COUNT) for tokens in starts]
    for captured in (NOTHING_CAPTURED, CAPTURED):
        executor = CudaExecutor(artifact, device, LIMITS, captured)
        assert greedy_through_engine(executor, LIMITS, starts, COUNT) == expected
        assert executor.captures.plan == captured, executor.captures.plan.reasons
        executor.close()


@pytest.mark.parametrize("name", DENSE)
def test_bfloat16_rounds_at_most_twice_as_much_as_transformers(
    name: str, device: DriverDevice, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.make(name, tmp_path / name)
    artifact = compiled(checkpoint, "bfloat16")
    engine = OnDevice(artifact, device)
    steps = mixed_step(engine, artifact.plan.limits.vocab_size)
    ours = torch.cat([rows for _, rows in steps])

    def of(model: torch.nn.Module) -> torch.Tensor:
        rows = [reference_logits(model, tokens)[-len(found) :] for tokens, found in steps]
        return torch.cat(rows).float()

    exact, theirs = of(checkpoint.exact), of(checkpoint.rounded())
    assert 1e-4 < relative_error(ours, exact) < 2 * relative_error(theirs, exact)


@pytest.mark.parametrize("captured", [NOTHING_CAPTURED, CAPTURED], ids=["plain", "captured"])
def test_ten_thousand_requests_get_their_own_tokens(
    captured: CapturePlan, device: DriverDevice, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.make("llama", tmp_path / "llama")
    artifact = compiled(checkpoint, "float32")
    lengths = [1 + 5 * number % 37 for number in range(48)]
    starts = prompts(artifact.plan.limits.vocab_size, lengths, seed=5)
    answers = {tuple(one): generated(checkpoint.exact, one, 10) for one in starts}
    exact = checkpoint.exact
    known = {one: rows for one, rows in answers.items() if chooses_clearly(exact, list(one), rows)}
    assert len(known) > 20
    executor = CudaExecutor(artifact, device, LIMITS, captured)
    engine = Engine(executor, EngineConfig(LIMITS, num_blocks=30))
    found = churn(engine, known, 10_000, seed=7)
    assert found.finished + found.aborted == 10_000
    assert min(found.aborted, found.preemptions) > 0
    executor.close()
