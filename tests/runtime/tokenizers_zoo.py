"""Small tokenizers of every kind that decoders come in, built in memory."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from graphopt.runtime.tokenizer import Tokenizer

WORDS = ["a", "b", "c", "the", "ing", "é", "€", ".", "x", "'s"]


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2, Llama 3, Qwen: any bytes in any token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "Ġa", "Ġthe", "âĤ", "¬a", "ðŁĺ", "Ģ", "ing", "Ċ"]
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def byte_fallback(strip: bool = True) -> tokenizers.Tokenizer:
    """As Llama 2 (with ``strip``) and Gemma (without)."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁", *WORDS, *("▁" + word for word in WORDS), "▁▁"]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    return core


def metaspace() -> tokenizers.Tokenizer:
    """As T5 and XLNet."""
    pieces = ["<unk>", "▁", *WORDS, *("▁" + word for word in WORDS)]
    core = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0, False))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return core


def word_piece() -> tokenizers.Tokenizer:
    """As BERT."""
    pieces = ["[UNK]", *WORDS, *("##" + word for word in WORDS)]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    core = tokenizers.Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    core.decoder = decoders.WordPiece()
    return core


def bpe_suffix() -> tokenizers.Tokenizer:
    """As the first GPT and CLIP."""
    pieces = [*WORDS, *(word + "</w>" for word in WORDS)]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    core = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], end_of_word_suffix="</w>"))
    core.decoder = decoders.BPEDecoder()
    return core


def word_level() -> tokenizers.Tokenizer:
    """Without any decoder: tokens are joined with spaces."""
    vocab = {piece: place for place, piece in enumerate(["[UNK]", *WORDS])}
    return tokenizers.Tokenizer(models.WordLevel(vocab=vocab, unk_token="[UNK]"))


ZOO = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "byte_fallback_no_strip": lambda: byte_fallback(strip=False),
    "metaspace": metaspace,
    "word_piece": word_piece,
    "bpe_suffix": bpe_suffix,
    "word_level": word_level,
}


def with_specials(core: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Add special tokens, and one added token that is not special."""
    core.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>")])
    core.add_tokens([AddedToken("<tool>")])
    return core


def in_zoo(kind: str) -> Tokenizer:
    """Our tokenizer around one of the zoo, with special tokens."""
    return Tokenizer(with_specials(ZOO[kind]()), {"eos_token": "</s>", "bos_token": "<s>"})


def save_tokenizer(folder: Path, config: dict | None = None) -> Path:
    """Write a byte-level tokenizer that puts ``<s>`` in front, as an artifact keeps it."""
    core = with_specials(byte_level())
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    folder.mkdir(parents=True, exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, **(config or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
