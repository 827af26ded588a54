"""Families through every layer: compiled, packed, scheduled, sampled; tokens as transformers gives.

Prompts come in chunks beside decodes of others, blocks hold four tokens, and memory is so small
that sequences are preempted and computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import graphopt
from graphopt import api
from tests.checkpoints import save_tiny

pytestmark = pytest.mark.slow

LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.1 * i for i in range(8)],
    "original_max_position_embeddings": 64,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 24, "layer_types": SLIDING},
    "gpt_oss": {
        "sliding_window": 8,
        "layer_types": SLIDING,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
        "head_dim": 8,
    },
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128},
    "bloom": {"n_layer": 3, "n_head": 4},
    "phi3": {
        "rope_parameters": LONGROPE,
        "original_max_position_embeddings": 64,
    },
}
PROMPTS = [list(range(3, 33)), [50, 4, 9], [90, 17] * 9]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "checkpoint", family, **FAMILIES[family])
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
    model.generation_config.eos_token_id = None
    artifact = api.compile_checkpoint(
        checkpoint, tmp_path / "a.gopt", dtype="float32", block_size=4
    )
    params = graphopt.SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True)
    memory = 20 * artifact.plan.bytes_per_block
    with graphopt.LLM(
        artifact, max_num_batched_tokens=16, max_num_seqs=3, kv_cache_memory=memory
    ) as llm:
        outputs = llm.generate(PROMPTS, params)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = torch.tensor([prompt])
        wanted = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=16,
            do_sample=False,
        )
        assert list(output.token_ids) == wanted[0, len(prompt) :].tolist()
    assert sum(output.metrics.preemptions for output in outputs) > 0
