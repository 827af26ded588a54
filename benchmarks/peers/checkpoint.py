"""Write a checkpoint of a real shape with random weights.

    python -m benchmarks.peers.checkpoint qwen2.5-0.5b FOLDER

It loads with transformers without a network. Weights are bfloat16 and drawn from a seeded normal
distribution, so that the same arguments write the same tensors; norms are near one. The tokenizer
is a byte-level BPE with a few merges, and as many placeholder tokens as the vocabulary is long.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

END_OF_TEXT = "<|endoftext|>"
# A few words that give the tokenizer some merges; the rest stays bytes.
MERGED_WORDS = ("the", "and", "ing", "er", "on", "in", "re", "at", "th", "to")

SHAPES: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "qwen2.5-0.5b": {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        "llama-3.2-1b": {
            "model_type": "llama",
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        "qwen3-0.6b": {
            "model_type": "qwen3",
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        "qwen3-8b": {
            "model_type": "qwen3",
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        "tiny": {
            "model_type": "llama",
            "vocab_size": 512,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    }
)


def build_tokenizer(vocab_size: int) -> Any:
    """A byte-level BPE of exactly `vocab_size` tokens.

    First the 256 bytes, then a few merges, the end of text, and placeholders that no text reaches.

    Raises:
        ValueError: the vocabulary is too small.
    """
    vocab = {
        piece: index for index, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    }
    merges: list[tuple[str, str]] = []
    for word in MERGED_WORDS:
        left = word[0]
        for right in word[1:]:
            if left + right not in vocab:
                merges.append((left, right))
                vocab[left + right] = len(vocab)
            left += right
    if len(vocab) + 1 > vocab_size:
        raise ValueError(f"a vocabulary of {vocab_size} is too small: {len(vocab) + 1} at least")
    vocab[END_OF_TEXT] = len(vocab)
    vocab |= {f"<|unused_{index}|>": index for index in range(len(vocab), vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)


@torch.no_grad()
def fill_random(model: Any, seed: int, std: float = 0.02) -> None:
    """Draw all parameters anew, in the order of their names."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        values = torch.empty(parameter.shape, dtype=torch.float32)
        values.normal_(0.0, std, generator=generator)
        if "norm" in name:
            values.add_(1.0)
        parameter.copy_(values.to(parameter.dtype))


def write_checkpoint(shape: str, output: Path, seed: int = 0) -> None:
    """Write the checkpoint of `shape` into the folder `output`."""
    output.mkdir(parents=True, exist_ok=True)
    fields = dict(SHAPES[shape])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    tokenizer = build_tokenizer(config.vocab_size)
    config.dtype = "bfloat16"
    config.bos_token_id = config.pad_token_id = None
    config.eos_token_id = tokenizer.eos_token_id
    models_of: Any = AutoModelForCausalLM
    model = models_of.from_config(config, dtype=torch.bfloat16)
    fill_random(model, seed)
    settings: Any = GenerationConfig
    model.generation_config = settings(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    add_old_names(output / "config.json")


def add_old_names(path: Path) -> None:
    """Add the names under which transformers 4, and what was written for it, look for settings."""
    data = json.loads(path.read_text())
    rope = data.get("rope_parameters") or {}
    data.setdefault("rope_theta", rope.get("rope_theta"))
    data.setdefault("torch_dtype", "bfloat16")
    if rope.get("rope_type", "default") != "default":
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        data.setdefault("rope_scaling", scaling)
    path.write_text(json.dumps(data, indent=2) + "\n")


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description="A checkpoint of a real shape, random weights")
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_checkpoint(options.shape, options.output, options.seed)
    size = sum(file.stat().st_size for file in options.output.glob("*.safetensors"))
    print(f"{options.output}: {size / 1e6:.1f} MB of weights")


if __name__ == "__main__":
    main()
