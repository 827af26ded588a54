"""A small encoder with random weights, whose tokenizer is another checkpoint's."""

from __future__ import annotations

import shutil
from pathlib import Path

SIZE, LONGEST = 64, 512  # dimensions of a vector, tokens of a text


def small_encoder(folder: Path, tokenizer: Path) -> Path:
    """Write a checkpoint of BERT's architecture; returns its folder.

    Args:
        folder: that is made.
        tokenizer: a checkpoint whose tokenizer it gets.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size(),
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * SIZE,
        max_position_embeddings=LONGEST,
    )
    BertModel(config).eval().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    return folder
