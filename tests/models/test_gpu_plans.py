"""Whole plans for a GPU of several families, token for token what transformers generates.

Kernels run in Triton's interpreter, through the engine, with prompts and decodes in the same steps;
then once more from captured graphs, padded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import PretrainedConfig

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.plan import TRITON
from graphopt.runtime import gpu_setup
from graphopt.runtime.capture_plan import CapturePlan
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.llm import LLM
from graphopt.runtime.sampling_params import SamplingParams
from graphopt.runtime.scheduler import SchedulerLimits
from tests.models.cases import CASES
from tests.models.harness import config_of, generated, prompts, reference_logits
from tests.models.native import Checkpoint
from tests.runtime.executors.gpu.interpreted_artifact import (
    compile_interpreted,
    greedy_through_engine,
    reference_of,
    tiny,
)
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice

LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=16, max_rows=16, max_model_len=64)
CAPTURED = CapturePlan((2, 4), (8, 16), 4, (0, 0), (0, 0))
COUNT = 4


def two_layers(name: str) -> PretrainedConfig:
    """A case's configuration with fewer layers, which is one of each kind at least."""
    model_type, settings = CASES[name]
    fewer: dict[str, Any] = {"n_layer" if "n_layer" in settings else "num_hidden_layers": 2}
    if "layer_types" in settings:
        fewer["layer_types"] = settings["layer_types"][:2]
    return config_of(model_type, **{**settings, **fewer})


@pytest.mark.interpreted
@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gemma3_text", "gpt2", "mixtral", "gpt_oss", "deepseek_v3"]
)
def test_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.of(two_layers(name), tmp_path / name)
    artifact = compile_interpreted(checkpoint.folder, tmp_path / f"{name}.gopt")
    assert artifact.plan.backends() == {TRITON}
    starts = prompts(artifact.plan.limits.vocab_size, (21, 9, 2), seed=3)
    expected = [generated(checkpoint.exact, tokens, COUNT) for tokens in starts]
    for captured in (CapturePlan((), (), 0, (), ()), CAPTURED):
        device = InterpretedDevice()
        executor = CudaExecutor(artifact, device, LIMITS, captured)
        assert greedy_through_engine(executor, LIMITS, starts, COUNT) == expected
        assert executor.captures.plan == captured
        assert bool(device.replays) == bool(captured.decode_sizes)
        executor.close()


@pytest.mark.interpreted
def test_an_llm_generates_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    device = InterpretedDevice()
    monkeypatch.setattr(gpu_setup, "this_gpu", lambda plan: device)
    reference = reference_of(tiny())
    prompt = [3, 1, 4, 1, 5]
    limits = {"max_num_seqs": 2, "max_num_batched_tokens": 8, "max_model_len": 32}
    with LLM(tiny(), generation_config="none", **limits) as llm:
        (found,) = llm.generate([prompt], SamplingParams(max_tokens=3, temperature=0.0))
        assert list(found.completions[0].token_ids) == generated(reference, prompt, 3)
        scores = llm.score(prompt)
    logits = reference_logits(reference, prompt).log_softmax(-1)
    wanted = [float(logits[n, token]) for n, token in enumerate(prompt[1:])]
    assert scores[1:] == pytest.approx(wanted, rel=1e-4)
    assert device.replays > 0
    assert device.blocks == {}, "closing gives everything back"


@pytest.mark.interpreted
@pytest.mark.full
def test_requests_of_every_kind_get_the_tokens_of_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds, penalties, biases, several samples and log-probabilities, in shared steps."""
    checkpoint = tiny().path.with_suffix("")
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    on_cpu = api.compile_checkpoint(checkpoint, tmp_path / "cpu.gopt", dtype="float32")
    usual = {"max_tokens": 5, "ignore_eos": True}
    params = [
        SamplingParams(temperature=0.9, seed=3, top_p=0.8, n=2, **usual),
        SamplingParams(temperature=1.3, seed=4, repetition_penalty=1.2, **usual),
        SamplingParams(temperature=0.0, logprobs=3, logit_bias={5: 4.0}, **usual),
        SamplingParams(temperature=0.7, seed=5, allowed_token_ids=[7, 8, 9, 50], **usual),
        SamplingParams(temperature=0.0, prompt_logprobs=2, presence_penalty=1.5, **usual),
    ]
    starts = prompts(tiny().plan.limits.vocab_size, (19, 3, 7, 1, 11), seed=9)
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 12, "max_model_len": 48}

    def told(artifact: Artifact) -> list[Any]:
        with LLM(artifact, generation_config="none", seed=1, **limits) as llm:
            found = llm.generate(starts, params)
        return [[list(one.token_ids) for one in each.completions] for each in found]

    device = InterpretedDevice()
    monkeypatch.setattr(gpu_setup, "this_gpu", lambda plan: device)
    assert told(tiny()) == told(on_cpu)
    assert device.replays > 0
