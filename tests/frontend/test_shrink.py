from __future__ import annotations

from typing import Any

import pytest

from graphopt.frontend.shrink import CONTEXT, WINDOW, kept_layers, shrink, unknown_sizes
from tests.models.harness import config_of


def small(model_type: str, **settings: Any) -> Any:
    return shrink(config_of(model_type, **settings))


def test_a_large_model_becomes_tiny_and_keeps_its_flags() -> None:
    large = config_of(
        "llama",
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336,
        vocab_size=128256,
        attention_bias=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        max_position_embeddings=131072,
    )
    tiny = shrink(large)
    assert (tiny.num_hidden_layers, tiny.num_attention_heads, tiny.num_key_value_heads) == (2, 4, 2)
    assert tiny.hidden_size == tiny.num_attention_heads * tiny.head_dim
    assert tiny.vocab_size < 200
    assert tiny.attention_bias is True
    assert tiny.rope_parameters["rope_theta"] == 500000.0
    assert tiny.rope_parameters["factor"] == 8.0
    assert tiny.rope_parameters["original_max_position_embeddings"] < tiny.max_position_embeddings
    assert large.num_hidden_layers == 32  # the original is untouched


@pytest.mark.parametrize(("kv", "expected"), [(32, 4), (8, 2), (1, 1)])
def test_groups_of_heads_keep_their_kind(kv: int, expected: int) -> None:
    heads = {"num_attention_heads": 32, "num_key_value_heads": kv, "hidden_size": 2048}
    assert small("mistral", **heads).num_key_value_heads == expected


def test_each_kind_of_layer_is_kept() -> None:
    gemma = small("gemma3_text", num_hidden_layers=26)
    assert set(gemma.layer_types) == {"sliding_attention", "full_attention"}
    assert gemma.num_hidden_layers == len(gemma.layer_types)
    assert gemma.sliding_window == WINDOW
    deepseek = small("deepseek_v3")
    assert deepseek.num_hidden_layers == 2
    assert deepseek.first_k_dense_replace == 1
    sparse = small("qwen3_moe", decoder_sparse_step=3, num_hidden_layers=9, mlp_only_layers=[4])
    assert sparse.num_hidden_layers == 4
    assert sparse.mlp_only_layers == [3]


def test_shared_layers_keep_someone_to_share_with() -> None:
    gemma = small("gemma3n_text")
    shared = gemma.num_kv_shared_layers
    own = gemma.layer_types[: gemma.num_hidden_layers - shared]
    assert 0 < shared < gemma.num_hidden_layers
    assert set(gemma.layer_types[-shared:]) <= set(own)


def test_kinds_come_from_lists_thresholds_and_intervals() -> None:
    assert kept_layers({}, 12) == [0, 1]
    assert kept_layers({"layer_types": ["a", "a", "b", "a"]}, 4) == [0, 2]
    assert kept_layers({"first_k_dense_replace": 3}, 8) == [0, 3]
    assert kept_layers({"mlp_only_layers": [5]}, 8) == [0, 5]
    assert kept_layers({"decoder_sparse_step": 3}, 8) == [0, 1, 2]
    assert kept_layers({"num_kv_shared_layers": 2}, 8) == [0, 6]
    assert len(kept_layers({"layer_types": [str(i) for i in range(40)]}, 40)) == 10


def test_latent_attention_stays_consistent() -> None:
    config = small("deepseek_v3")
    assert config.qk_head_dim == config.qk_nope_head_dim + config.qk_rope_head_dim
    assert (
        config.num_experts_per_tok <= config.n_routed_experts // config.n_group * config.topk_group
    )
    assert config.n_routed_experts % config.n_group == 0


@pytest.mark.parametrize(("experts", "groups"), [(4, 1), (4, 2), (8, 4), (64, 8), (256, 8)])
def test_a_group_of_experts_has_the_two_that_rank_it(experts: int, groups: int) -> None:
    config = small("deepseek_v3", n_routed_experts=experts, n_group=groups, topk_group=1)
    assert config.n_routed_experts // config.n_group >= 2
    assert (config.n_group == 1) == (groups == 1)


def test_rotary_lists_fit_the_small_head() -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + i / 100 for i in range(48)],
        "long_factor": [2.0 + i for i in range(48)],
        "original_max_position_embeddings": 4096,
    }
    config = small(
        "phi3",
        hidden_size=3072,
        num_attention_heads=32,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_parameters=rope,
        pad_token_id=0,
    )
    head = config.hidden_size // config.num_attention_heads
    assert len(config.rope_parameters["long_factor"]) == head // 2
    assert config.rope_parameters["long_factor"][0] == 2.0
    assert config.rope_parameters["long_factor"][-1] == 49.0
    assert config.rope_parameters["original_max_position_embeddings"] < CONTEXT


def test_token_ids_stay_in_the_vocabulary() -> None:
    config = small("llama", vocab_size=128256, bos_token_id=128000, eos_token_id=[128001, 7])
    assert config.bos_token_id < config.vocab_size
    assert all(0 <= token < config.vocab_size for token in config.eos_token_id)


def test_a_size_nobody_knows_is_reported() -> None:
    config = config_of("llama")
    assert unknown_sizes(config) == ()
    config.forgetting_horizon = 512
    assert unknown_sizes(config) == ("forgetting_horizon = 512",)


def test_tiny_models_stay_tiny() -> None:
    config = small(
        "llama",
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=1,
        num_hidden_layers=1,
        intermediate_size=20,
        vocab_size=50,
    )
    assert (config.num_hidden_layers, config.num_attention_heads, config.vocab_size) == (1, 3, 50)
    assert config.hidden_size == 3 * config.head_dim
