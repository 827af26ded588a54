"""Families with latent attention, raised: the numbers and tokens of transformers, and less memory.

The rule itself is tested in tests/passes/test_raise_mla.py; here it meets what transformers writes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

import graphopt
from graphopt import api
from graphopt.artifact import Artifact
from graphopt.frontend.hf import Decoder, trace_decoder
from graphopt.frontend.twin import reference_model, weights_of
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.passes.manager import PassContext, run_passes
from graphopt.passes.pipeline import decoder_pipeline
from graphopt.passes.raise_mla import RaiseMla
from tests.checkpoints import save_tiny
from tests.models.families import small_config
from tests.models.harness import (
    Paged,
    Running,
    generated,
    greedy,
    mixed_step_error,
    prompts,
    reference_logits,
)

FAST = "deepseek_v2"
NAMES = [FAST] + [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("deepseek_v3", "minicpm3", "glm4_moe_lite", "youtu", "axk1")
]
SIZES: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
EXPERTS: dict[str, Any] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {**SIZES, **EXPERTS, "n_group": 1, "topk_group": 1},
    "deepseek_v3": {**SIZES, **EXPERTS, "n_group": 2, "topk_group": 1, "head_dim": 8},
    "minicpm3": SIZES,
}


@dataclass(frozen=True)
class Family:
    """A family's small configuration, its traced graph and the raised one, in float32."""

    config: PretrainedConfig
    decoder: Decoder
    graph: Graph
    reference: PreTrainedModel

    @property
    def weights(self) -> dict[str, Tensor]:
        return weights_of(self.reference, self.decoder)


def raised(graph: Graph) -> Graph:
    return run_passes(graph, [RaiseMla()], PassContext())[0]


@cache
def family(name: str) -> Family:
    config = small_config(name)
    decoder = trace_decoder(config, DType.F32)
    return Family(config, decoder, raised(decoder.graph), reference_model(config, seed=7))


@pytest.mark.parametrize("name", NAMES)
def test_a_token_takes_a_latent_and_the_rotated_key(name: str) -> None:
    found = family(name)
    state, text = found.graph.input("kv").type, found.config.get_text_config()
    size = text.kv_lora_rank + text.qk_rope_head_dim
    assert state.kind == "latent"
    assert state.bytes_per_token == 4 * size * text.num_hidden_layers
    assert 4 * state.bytes_per_token < found.decoder.graph.input("kv").type.bytes_per_token


@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_step_agrees(name: str) -> None:
    found = family(name)
    assert mixed_step_error(found.graph, found.weights, found.reference) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_identical(name: str) -> None:
    found = family(name)
    starts = prompts(160, (13, 5, 22), seed=1)
    ours = greedy(found.graph, found.weights, starts, 16)
    assert ours == [generated(found.reference, tokens, 16) for tokens in starts]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minicpm3", "deepseek_v3"])
def test_bfloat16_rounds_as_the_expanded_form_does(name: str) -> None:
    """By the median token: one that rounding moves to another expert is far off in both."""
    found = family(name)
    traced = trace_decoder(found.config, DType.BF16)
    reference = copy.deepcopy(found.reference)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.bfloat16().float())
    weights = weights_of(reference, traced)

    def error(graph: Graph) -> float:
        errors = []
        for tokens in prompts(160, (40, 41, 42, 43)):
            exact, sequence = reference_logits(reference, tokens), Running(tokens)
            engine = Paged(graph, weights)
            got = torch.cat([engine.step([(sequence, n)])[0] for n in (17, len(tokens) - 17)])
            errors.append((got.float() - exact).norm(dim=1) / exact.norm(dim=1))
        return float(torch.cat(errors).median())

    assert 1e-3 < error(raised(traced.graph)) < 1.2 * error(traced.graph)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_seen_after_all_that_comes_before_it(name: str) -> None:
    found = family(name)
    graph, _ = run_passes(found.decoder.graph, decoder_pipeline())
    assert graph.input("kv").type == found.graph.input("kv").type
    assert mixed_step_error(graph, found.weights, found.reference) < 1e-5


def compiled(checkpoint: Path, path: Path) -> Artifact:
    return api.compile_checkpoint(checkpoint, path, dtype="float32", block_size=4)


@pytest.mark.slow
def test_the_artifact_is_verified_against_keys_and_values(tmp_path: Path) -> None:
    """The traced graph keeps keys and values, the plan a latent; their logits are the same."""
    checkpoint = save_tiny(tmp_path / "checkpoint", "deepseek_v2", **CHECKPOINTS["deepseek_v2"])
    artifact = compiled(checkpoint, tmp_path / "a.gopt")
    assert "kv[3 x (4, 24, 12, f32)]" in artifact.stage_text("traced")
    assert "latent[3 x (1, 24, 16, f32)]" in artifact.graph_text()
    report = api.verify_artifact(artifact.path, reference=checkpoint, tokens=list(range(5, 60)))
    assert report.logits.agrees
    assert report.reference is not None
    assert report.reference.agrees


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_engine_gives_the_tokens_of_transformers(name: str, tmp_path: Path) -> None:
    """In chunks beside decodes, in so little memory that sequences are preempted."""
    checkpoint = save_tiny(tmp_path / "checkpoint", name, **CHECKPOINTS[name])
    artifact = compiled(checkpoint, tmp_path / "a.gopt")
    assert str(artifact.plan.state) == "latent[3 x (1, 24, 16, f32)]"
    # Three layers of 24 numbers of 4 bytes, of 4 tokens, for which kernels keep a panel of 16.
    assert artifact.plan.bytes_per_block == 3 * 24 * 4 * 16
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    starts = [list(range(3, 33)), [50, 4, 9], [90, 17] * 9]
    params = graphopt.SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)
    memory = 20 * artifact.plan.bytes_per_block
    with graphopt.LLM(
        artifact, max_num_batched_tokens=16, max_num_seqs=3, kv_cache_memory=memory
    ) as llm:
        outputs = llm.generate(starts, params)
    assert [list(output.token_ids) for output in outputs] == [
        generated(model, tokens, 16) for tokens in starts
    ]
    assert sum(output.metrics.preemptions for output in outputs) > 0
