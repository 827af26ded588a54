"""Small configurations of the families that must agree, each with what makes its family special."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COMMON: Mapping[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}
_TOKENS: Mapping[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GPT: Mapping[str, Any] = {
    "vocab_size": 160,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

# name of the case: transformers' model type, and its configuration.
CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", _COMMON),
    "llama3_rope": (
        "llama",
        {
            **_COMMON,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "qwen2": ("qwen2", _COMMON),
    "qwen3": ("qwen3", {**_COMMON, "head_dim": 24}),
    "mistral": ("mistral", {**_COMMON, "sliding_window": 8, "head_dim": 16}),
    "gemma2": (
        "gemma2",
        {**_COMMON, "head_dim": 24, "query_pre_attn_scalar": 20, "sliding_window": 8},
    ),
    "gemma3_text": (
        "gemma3_text",
        {
            **_COMMON,
            "head_dim": 24,
            "query_pre_attn_scalar": 20,
            "sliding_window": 8,
            "layer_types": _MIXED,
        },
    ),
    "phi3": ("phi3", {**_COMMON, **_TOKENS}),
    "phi3_longrope": (
        "phi3",
        {
            **_COMMON,
            **_TOKENS,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5],
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "gpt2": ("gpt2", _GPT),
    "opt": (
        "opt",
        {
            "vocab_size": 160,
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "word_embed_proj_dim": 48,
            **_TOKENS,
        },
    ),
    "gpt_neox": ("gpt_neox", {**_COMMON, "rotary_pct": 0.25, **_TOKENS}),
    "falcon": (
        "falcon",
        {
            "vocab_size": 160,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "multi_query": True,
            "alibi": False,
            **_TOKENS,
        },
    ),
    "falcon_grouped": (
        "falcon",
        {
            "vocab_size": 160,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "alibi": False,
            **_TOKENS,
        },
    ),
    "bloom": (
        "bloom",
        {"vocab_size": 160, "hidden_size": 60, "n_layer": 3, "n_head": 6, **_TOKENS},
    ),
    "gptj": ("gptj", {**_GPT, "rotary_dim": 8}),
    "mixtral": (
        "mixtral",
        {**_COMMON, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "qwen3_moe": (
        "qwen3_moe",
        {
            **_COMMON,
            "head_dim": 16,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 2,
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            **_COMMON,
            **_TOKENS,
            "head_dim": 16,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "layer_types": _MIXED,
        },
    ),
    "olmo2": ("olmo2", {**_COMMON, **_TOKENS}),
    "cohere": ("cohere", {**_COMMON, **_TOKENS}),
    "glm4": ("glm4", {**_COMMON, **_TOKENS, "head_dim": 16}),
    "stablelm": ("stablelm", {**_COMMON, **_TOKENS}),
    "starcoder2": ("starcoder2", {**_COMMON, **_TOKENS, "sliding_window": 8}),
    "granite": (
        "granite",
        {
            **_COMMON,
            **_TOKENS,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.3,
            "embedding_multiplier": 2.0,
            "logits_scaling": 3.0,
        },
    ),
    "smollm3": ("smollm3", {**_COMMON, **_TOKENS, "no_rope_layer_interval": 3}),
    "deepseek_v3": (
        "deepseek_v3",
        {
            **_COMMON,
            **_TOKENS,
            "num_key_value_heads": 4,
            "q_lora_rank": 24,
            "kv_lora_rank": 20,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_group": 4,
            "topk_group": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
}
FAST = ("llama", "gemma3_text", "gpt2", "gpt_oss", "deepseek_v3")
