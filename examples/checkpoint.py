"""The demo checkpoint as a folder: its tokenizer, its model, its measured perplexity, its card.

before:  training texts and the model's dimensions
after:   an untrained Llama and its tokenizer; a trained one written as a Hugging Face folder
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from documents import ASSISTANT, END_OF_TEXT, END_OF_TURN, USER, Corpus
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = (END_OF_TEXT, USER, ASSISTANT, END_OF_TURN)

# System messages are left out: the model has seen none.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Size:
    """The model's dimensions."""

    vocabulary: int = 4096
    hidden: int = 256
    feed_forward: int = 640
    layers: int = 6
    heads: int = 8
    key_value_heads: int = 4
    head_size: int = 32
    longest_context: int = 1024


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp(mean negative log-likelihood a token) of a text, and how it was measured.

    Windows of `context_tokens` start every `stride_tokens`. Each token but the first is scored
    once, in the first window that holds it, given all that precedes it there.
    """

    perplexity: float
    nats_per_token: float
    scored_tokens: int
    context_tokens: int
    stride_tokens: int
    weights: str = "bfloat16"
    arithmetic: str = "float32"


def train_tokenizer(texts: Sequence[str], size: Size) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `size.vocabulary` tokens; encoding opens with end-of-text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )
    wrap: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=size.longest_context,
        clean_up_tokenization_spaces=False,
    )


def build_model(size: Size, stop_ids: tuple[int, int]) -> LlamaForCausalLM:
    """An untrained Llama with tied embeddings, float32, drawn from torch's global generator.

    `stop_ids` are the end of a text, which also opens and pads, and the end of a chat turn.
    """
    end_of_text = stop_ids[0]
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        head_dim=size.head_size,
        max_position_embeddings=size.longest_context,
        initializer_range=0.04,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=list(stop_ids),
        pad_token_id=end_of_text,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig.from_dict(
        {
            "bos_token_id": end_of_text,
            "eos_token_id": list(stop_ids),
            "pad_token_id": end_of_text,
            "do_sample": True,
            "temperature": 0.7,
            "top_p": 0.9,
        }
    )
    return model


@torch.inference_mode()
def measure_perplexity(
    model: nn.Module, tokens: torch.Tensor, context_tokens: int = 512, stride_tokens: int = 256
) -> Perplexity:
    """Perplexity of `tokens` i64[T] under `model`, as `Perplexity` defines it."""
    model.eval()
    nats, scored = 0.0, 0
    for start in range(0, len(tokens) - 1, stride_tokens):
        window = tokens[start : start + context_tokens]
        fresh = len(window) - 1 if start == 0 else len(window) - (context_tokens - stride_tokens)
        if fresh <= 0:
            break
        logits = model(input_ids=window[None], use_cache=False).logits[0, -fresh - 1 : -1]
        nats += functional.cross_entropy(logits.float(), window[-fresh:], reduction="sum").item()
        scored += fresh
    mean = nats / scored
    return Perplexity(math.exp(mean), mean, scored, context_tokens, stride_tokens)


def stored(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A copy with the weights that are written: bf16."""
    copied = copy.deepcopy(model)
    nn.Module.to(copied, torch.bfloat16)
    return copied


def export(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    record: Mapping[str, Any],
    out: Path,
) -> None:
    """Write the folder. Each file is replaced whole, so that a reader never meets half of one."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as name:
        fresh = Path(name)
        stored(model).save_pretrained(fresh)
        tokenizer.save_pretrained(fresh, save_jinja_files=False)
        (fresh / "heldout.txt").write_text(corpus.held_out_text, encoding="utf-8")
        describe_folder(record, fresh)
        for path in sorted(fresh.iterdir()):
            path.chmod(0o644)
            shutil.move(path, out / path.name)


def describe_folder(record: Mapping[str, Any], folder: Path) -> None:
    """Write `training.json`, the model card made from it, and the text's licence."""
    text = json.dumps(record, indent=2) + "\n"
    (folder / "training.json").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(model_card(record), encoding="utf-8")
    licence = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    if licence.exists():  # some distributions install it elsewhere; the card names it
        shutil.copyfile(licence, folder / "LICENSE-PYTHON.txt")


def model_card(record: Mapping[str, Any]) -> str:
    """The folder's README.md, every number in it taken from `training.json`."""
    measured, plan, about = record["held_out"], record["plan"], record["about"]
    bits = measured["nats_per_token"] * measured["scored_tokens"] / math.log(2)
    return f"""---
license: psf-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# A small Llama that has read Python's documentation strings

{about["parameters"] / 1e6:.2f} million parameters in bf16, {about["vocabulary"]} byte-level BPE \
tokens. It completes signatures, sentences and
short questions in the style of Python's documentation. What it says is often wrong: it exists to
try a compiler on a real checkpoint that fits in a repository.

| | |
| --- | --- |
| perplexity, held-out text | {measured["perplexity"]:.2f} a token, \
{bits / about["held_out_bytes"]:.3f} bits a byte |
| held-out text | `heldout.txt`, {about["held_out_documents"]} documents, \
{measured["scored_tokens"]} tokens scored |
| protocol | bf16 weights, float32 arithmetic, windows of {measured["context_tokens"]} tokens \
every {measured["stride_tokens"]}, each token scored once |
| training text | {about["training_documents"]} documents, {about["training_bytes"]} bytes, \
{about["training_tokens"]} tokens |
| training | {record["steps_done"]} steps, {record["tokens_read"]} tokens read, seed \
{plan["seed"]}, {record["wall_seconds"] / 60:.0f} minutes, {about["threads"]} thread(s) |
| made with | Python {about["python"]}, torch {about["torch"]}, transformers \
{about["transformers"]}, tokenizers {about["tokenizers"]}, {about["vector_width"]} |

    python examples/train_demo.py --out examples/demo-llama \
--steps {plan["steps"]} --seed {plan["seed"]} --threads {about["threads"]}

The same command with the same versions on the same kind of processor gives the same weights.

## Text and licence

The training and the held-out text are the documentation strings of the standard library of Python
{about["python"]} and the language reference behind its `help()`, copyright (c) Python Software
Foundation, under the PSF licence version 2 (`LICENSE-PYTHON.txt`, or
https://docs.python.org/3/license.html). The changes made to them: dedented, deduplicated, set under
their signatures, and their first sentences given as answers to questions. Weights, tokenizer and
held-out text are distributed under the same licence.

A text is held out by its own hash, unless it shares two fifths of its runs of five words with the
training texts. `heldout.txt` is one token stream: its documents are separated by
`<|endoftext|>`, which tokenizes as the one special token.

## Chat

The template writes `<|user|>` and `<|assistant|>` turns that end with `<|end|>`. System messages
are left out: the model has seen none. Ask as the training did: "What does os.path.join do?".
"""
