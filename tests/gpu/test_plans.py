"""Whole plans on the device: token for token what transformers generates in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.runtime.capture_plan import NOTHING_CAPTURED, CapturePlan
from graphopt.runtime.executor import SamplingInputs
from graphopt.runtime.executors.gpu.driver import DriverDevice
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.llm import LLM
from graphopt.runtime.sampler import sample
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits
from tests.checkpoints import save_tiny
from tests.models.harness import generated, prompts
from tests.runtime.executors.gpu.interpreted_artifact import greedy_through_engine
from tests.runtime.executors.gpu.test_driver_calls import decode
from tests.runtime.executors.gpu.test_steady_decodes import DECODES, histories

pytestmark = pytest.mark.gpu

LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=16, max_rows=16, max_model_len=64)
CAPTURED = CapturePlan((1, 2, 4), (4, 8, 16), 4, (0, 0, 0), (0, 0, 0))
COUNT = 12


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("plans")
    checkpoint = save_tiny(folder / "tiny", num_hidden_layers=2)
    major, minor = torch.cuda.get_device_capability()
    target = f"cuda:sm_{major}{minor}"
    return api.compile_checkpoint(
        checkpoint, folder / "tiny.gopt", target=target, dtype="float32", reuse=False
    )


@pytest.fixture(scope="module")
def reference(artifact: Artifact) -> PreTrainedModel:
    """Transformers' model, in float32 on the CPU."""
    folder: Path = artifact.path.with_suffix("")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_memory_is_written_filled_and_read(device: DriverDevice) -> None:
    rng = np.random.default_rng(0)
    given = rng.integers(0, 256, (3 << 20) + 17, dtype=np.uint8)
    before, _ = device.memory()
    place = device.allocate(given.nbytes + 1, "a test")
    device.fill(place, given.nbytes + 1, 7)
    kept = given.copy()
    device.write(place, given)
    given[:] = 0
    found = device.read(place, given.nbytes + 1)
    np.testing.assert_array_equal(found[:-1], kept)
    assert found[-1] == 7
    seen = torch.as_tensor(device.view(place, 1000), device="cuda")
    assert seen.data_ptr() == place
    np.testing.assert_array_equal(seen.cpu().numpy(), kept[:1000])
    device.free(place)
    assert device.memory()[0] >= before - (8 << 20)


@pytest.mark.parametrize("captured", [NOTHING_CAPTURED, CAPTURED], ids=["plain", "captured"])
def test_tokens_are_those_of_transformers(
    captured: CapturePlan, artifact: Artifact, reference: PreTrainedModel, device: DriverDevice
) -> None:
    starts = prompts(artifact.plan.limits.vocab_size, (21, 9, 2), seed=3)
    executor = CudaExecutor(artifact, device, LIMITS, captured, watchdog_seconds=60.0)
    found = greedy_through_engine(executor, LIMITS, starts, COUNT)
    assert found == [generated(reference, tokens, COUNT) for tokens in starts]
    assert executor.captures.plan == captured, executor.captures.plan.reasons
    if captured.decode_sizes:
        assert executor.captures.took_s > 0, "all sizes were captured before the first step"
        assert executor.captures.measured.total_bytes >= 0


def test_captured_decodes_sample_what_plain_ones_do(artifact: Artifact) -> None:
    """Random requests, aborts and preemptions; most decodes need nothing from the host."""
    plain, _, loud = histories(artifact, DriverDevice(), NOTHING_CAPTURED, 5, 40)
    captured, preemptions, silent = histories(artifact, DriverDevice(), DECODES, 5, 40)
    assert captured.keys() == plain.keys()
    for name, one in plain.items():
        assert captured[name].token_ids == one.token_ids
    assert loud == 0
    assert silent > 40
    assert preemptions > 0


def test_a_captured_decode_copies_nothing_and_runs_by_itself(
    artifact: Artifact, device: DriverDevice
) -> None:
    executor = CudaExecutor(artifact, device, LIMITS, CAPTURED, watchdog_seconds=60.0)
    executor.allocate(12)
    own, before = np.arange(3), np.full(3, -1)
    executor.start(*decode(3, 17, {}), before)
    copied = executor.copied_bytes
    for length in range(18, 32):
        executor.start(*decode(3, length, {}), own)
        assert len(executor.finish().token_ids) == 3
    assert executor.copied_bytes == copied
    executor.finish()
    assert executor.again(10)


def test_rows_are_sampled_as_numpy_does(artifact: Artifact, device: DriverDevice) -> None:
    from tests.runtime.executors.gpu.test_executor import MIXED

    executor = CudaExecutor(artifact, device, LIMITS)
    executor.allocate(8)
    logits = executor.logits(MIXED)
    numbers = np.arange(len(logits), dtype=np.uint64)
    given = SamplingInputs(
        len(logits),
        temperature=np.full(len(logits), 0.8, np.float32),
        top_p=np.full(len(logits), 0.9, np.float32),
        seeds=numbers,
        streams=numbers,
        counters=numbers,
    )
    found = executor.run(MIXED, given).token_ids
    np.testing.assert_array_equal(found, sample(logits, given).token_ids)


def test_an_llm_opens_this_gpu(artifact: Artifact, reference: PreTrainedModel) -> None:
    starts = prompts(artifact.plan.limits.vocab_size, (30, 5, 1, 12), seed=4)
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 32, "max_model_len": 64}
    params = SamplingParams(max_tokens=COUNT, temperature=0.0, ignore_eos=True)
    with LLM(artifact, generation_config="none", kv_cache_memory=1 << 24, **limits) as llm:
        outputs = llm.generate(starts, params)
    found = [list(one.completions[0].token_ids) for one in outputs]
    assert found == [generated(reference, tokens, COUNT) for tokens in starts]
