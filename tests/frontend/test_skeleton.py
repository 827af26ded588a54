from __future__ import annotations

import pytest
import torch

from graphopt.errors import UnsupportedError
from graphopt.frontend.skeleton import build, refuse_other_kinds, text_config
from graphopt.ir.dtype import DType
from tests.models.harness import config_of

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 64}


def test_parameters_take_no_memory_and_buffers_are_real() -> None:
    model = build(config_of("llama", intermediate_size=48, **SIZES), DType.BF16)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert not model.training


def test_tied_parameters_stay_one() -> None:
    model = build(
        config_of("llama", intermediate_size=48, tie_word_embeddings=True, **SIZES), DType.F32
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_what_transformers_keeps_in_float32_is_float32() -> None:
    model = build(
        config_of(
            "deepseek_v3",
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            moe_intermediate_size=16,
            intermediate_size=32,
            **SIZES,
        ),
        DType.BF16,
    )
    kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert kinds["model.layers.1.mlp.gate.e_score_correction_bias"] == torch.float32
    assert kinds["model.layers.1.self_attn.o_proj.weight"] == torch.bfloat16


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bart", "encoder-decoder"),
        ("whisper", "encoder-decoder"),
        ("t5", "encoder-decoder"),
        ("mamba", "recurrent or hybrid"),
        ("jamba", "recurrent or hybrid"),
        ("qwen3_next", "recurrent or hybrid"),
        ("glm_moe_dsa", "chooses among past tokens"),
        ("lfm2", None),
        ("vit", "no causal language model"),
    ],
)
def test_other_kinds_are_refused_by_name(model_type: str, reason: str | None) -> None:
    config = config_of(model_type)
    if reason is None:
        refuse_other_kinds(config)
        return
    with pytest.raises(UnsupportedError, match=reason) as error:
        refuse_other_kinds(config)
    assert model_type in str(error.value)


def test_convolution_layers_make_a_hybrid() -> None:
    config = config_of("lfm2", layer_types=["conv", "full_attention"], num_hidden_layers=2)
    with pytest.raises(UnsupportedError, match="recurrent or hybrid") as error:
        refuse_other_kinds(config)
    assert error.value.got == "conv"


def test_sizes_that_do_not_fit_are_the_users_mistake() -> None:
    config = config_of("gptj", n_embd=30, n_head=4, n_layer=1)
    with pytest.raises(UnsupportedError, match="cannot build gptj"):
        build(config, DType.F32)


def test_the_text_part_of_a_composite_is_found() -> None:
    config = config_of("gemma3")
    assert text_config(config) is config.text_config


def test_experts_that_begin_as_zeros_take_no_memory_either() -> None:
    """Two billion elements, which would not fit where tests run."""
    config = config_of(
        "llama4_text",
        hidden_size=2048,
        intermediate_size=16384,
        num_local_experts=32,
        num_hidden_layers=1,
        interleave_moe_layer_step=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=64,
    )
    model = build(config, DType.BF16)
    experts = model.model.layers[0].feed_forward.experts
    assert experts.gate_up_proj.numel() > 2_000_000_000
    assert experts.gate_up_proj.is_meta
