"""Small random checkpoints for tests, written as transformers writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY_LLAMA: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def save_tiny(
    folder: Path,
    model_type: str = "llama",
    *,
    class_name: str = "AutoModelForCausalLM",
    dtype: str = "float32",
    seed: int = 0,
    **fields: Any,
) -> Path:
    """Write a random checkpoint whose logits are spread widely enough to tell tokens apart."""
    import torch
    import transformers
    from transformers import AutoConfig

    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**TINY_LLAMA, **fields})
    auto = getattr(transformers, class_name)
    model = auto.from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.ndim == 1 else 2.0 / parameter.shape[-1] ** 0.5
            noise = torch.randn(parameter.shape) * spread
            parameter.copy_(noise + (1.0 if parameter.ndim == 1 else 0.0))
    model.save_pretrained(folder)
    return folder
