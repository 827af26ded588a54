"""Train the demo checkpoint: a small Llama that has read Python's own documentation strings.

before:  the running interpreter and its standard library; no download
after:   a Hugging Face folder (config, bf16 weights, tokenizer with a chat template), the held-out
         text the model never saw, and `training.json` with its measured perplexity

    python examples/train_demo.py --out examples/demo-llama            # under an hour, two cores
    python examples/train_demo.py --out /tmp/demo --minutes 5          # a quick, worse one

The result is a function of the seed, the number of steps, the threads, the versions of Python (the
corpus is its own library), torch, transformers and tokenizers, and the processor's instruction set
(sums run in its vector width). `training.json` records them all.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import tokenizers
import torch
import transformers
from checkpoint import (
    Perplexity,
    Size,
    build_model,
    export,
    measure_perplexity,
    stored,
    train_tokenizer,
)
from corpus import Entry, collect
from documents import END_OF_TEXT, END_OF_TURN, Corpus, build_corpus
from torch import nn
from torch.nn import functional
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train.

    Every step reads `tokens_per_step` tokens in rows of the context that its share of the run has
    reached: most documents are short, and the last rows show every distance the model will meet.
    Learning rates rise over `warmup_steps` and fall along a cosine to a twentieth. The perplexity
    of the held-out text's first `start_tokens` is recorded too: a check that takes a second.
    """

    steps: int = 3000
    tokens_per_step: int = 2048
    contexts: tuple[tuple[float, int], ...] = ((0.0, 256), (0.5, 512), (0.85, 1024))
    matrix_learning_rate: float = 5e-3
    learning_rate: float = 5e-3
    warmup_steps: int = 60
    weight_decay: float = 0.1
    dropout: float = 0.05
    seed: int = 20240229
    report_every: int = 40
    export_every: int = 300
    start_tokens: int = 1024


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[torch.Tensor]:
    """Each text's tokens, i64[T], closed by end-of-text."""
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [torch.tensor([*row, tokenizer.eos_token_id]) for row in ids]


class TokenStream:
    """An endless run of tokens: the documents end to end, in a new order every epoch."""

    def __init__(self, documents: Sequence[torch.Tensor], seed: int) -> None:
        self._documents = documents
        self._generator = torch.Generator().manual_seed(seed)
        self._left = torch.empty(0, dtype=torch.int64)

    def take(self, count: int) -> torch.Tensor:
        """The next `count` tokens, i64[count]."""
        while len(self._left) < count:
            order = torch.randperm(len(self._documents), generator=self._generator).tolist()
            self._left = torch.cat([self._left, *(self._documents[i] for i in order)])
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def train(model: LlamaForCausalLM, stream: TokenStream, plan: Plan) -> Iterator[tuple[int, float]]:
    """Train in place. After each step, yield its number from 1 and its loss in nats per token."""
    _add_dropout(model, plan.dropout)
    optimizers = _optimizers(model, plan)
    schedules = [LambdaLR(optimizer, partial(rate_share, plan)) for optimizer in optimizers]
    for step in range(plan.steps):
        model.train()
        context = next(
            size for share, size in reversed(plan.contexts) if step >= share * plan.steps
        )
        rows = plan.tokens_per_step // context
        batch = stream.take(rows * (context + 1)).view(rows, context + 1)
        with bf16_products():
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            model.zero_grad()
            torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        yield step + 1, loss.item()


@contextmanager
def bf16_products() -> Iterator[None]:
    """Let float32 matrix products round their factors to bf16, where the processor has it.

    A step takes 0.87 s of processor time with it and 1.07 s without (AVX-512 with bf16). Autocast,
    which also keeps the activations in bf16, took three times as long.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def rate_share(plan: Plan, step: int) -> float:
    """The share of the peak learning rate at a step: a linear warmup, then a cosine to a 20th."""
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    done = (step - plan.warmup_steps) / max(1, plan.steps - plan.warmup_steps)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2


def _optimizers(model: nn.Module, plan: Plan) -> tuple[Muon, AdamW]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms.

    Muon (K. Jordan et al., 2024) with its step scaled to AdamW's (J. Liu et al., "Muon is scalable
    for LLM training", 2025, section 2.2). After 160 steps from the same seed it stood at a training
    loss of 4.93, AdamW alone, at 4e-3, at 5.17.
    """
    named = dict(model.named_parameters())
    layers = [p for name, p in named.items() if p.dim() == 2 and "embed_tokens" not in name]
    matrices = {id(parameter) for parameter in layers}
    rest = [parameter for parameter in named.values() if id(parameter) not in matrices]
    return (
        Muon(
            layers,
            lr=plan.matrix_learning_rate,
            weight_decay=plan.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        AdamW(rest, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )


def _add_dropout(model: nn.Module, probability: float) -> None:
    """Drop out what each attention and feed-forward block adds to the residual stream.

    Llama has no such dropout; with some nine passes over the text the model would learn it by
    heart. The hooks act in training only and are not part of the saved model.
    """

    def drop(module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        return functional.dropout(output, probability, module.training)

    for name, module in model.named_modules():
        if name.endswith(("o_proj", "down_proj", "embed_tokens")):
            module.register_forward_hook(drop)


def steps_within(minutes: float, size: Size, plan: Plan) -> int:
    """How many steps fit, by timing a few on a throwaway model with random tokens."""
    stream = TokenStream([torch.randint(size.vocabulary, (100_000,))], seed=0)
    warm, timed = 2, 6
    began = time.perf_counter()
    for step, _ in train(build_model(size, (0, 1)), stream, replace(plan, steps=warm + timed)):
        if step == warm:
            began = time.perf_counter()
    return max(1, int(minutes * 60 * timed / (time.perf_counter() - began)))


def describe(
    corpus: Corpus, documents: Sequence[torch.Tensor], size: Size, model: nn.Module
) -> dict[str, Any]:
    """What was trained on what, for `training.json`."""
    return {
        "licence": "text: Python Software Foundation licence (PSF-2.0)",
        "training_sha256": hashlib.sha256("".join(corpus.training).encode()).hexdigest(),
        "training_documents": len(corpus.training),
        "training_bytes": sum(len(text.encode()) for text in corpus.training),
        "training_tokens": sum(len(document) for document in documents),
        "held_out_documents": len(corpus.held_out),
        "held_out_bytes": sum(len(text.encode()) for text in corpus.held_out),
        "vocabulary": size.vocabulary,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "vector_width": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def run(size: Size, plan: Plan, entries: Sequence[Entry], out: Path) -> Perplexity:
    """Tokenize, train, and export to `out` every `plan.export_every` steps and at the end."""
    began = time.perf_counter()
    corpus = build_corpus(entries)
    tokenizer = train_tokenizer(corpus.training, size)
    documents = encode(tokenizer, corpus.training)
    held_out = torch.cat(encode(tokenizer, [corpus.held_out_text]))[:-1]  # it closes itself
    torch.manual_seed(plan.seed)
    vocabulary = tokenizer.get_vocab()
    model = build_model(size, (vocabulary[END_OF_TEXT], vocabulary[END_OF_TURN]))
    about = describe(corpus, documents, size, model)
    click.echo(json.dumps(about, indent=2))
    lately: list[float] = []
    for step, loss in train(model, TokenStream(documents, plan.seed), plan):
        lately.append(loss)
        seconds = time.perf_counter() - began
        if step % plan.report_every == 0:
            mean = sum(lately) / len(lately)
            lately.clear()
            click.echo(f"step {step}/{plan.steps}  loss {mean:.3f}  {seconds:.0f} s")
        if step % plan.export_every == 0 or step == plan.steps:
            weights = nn.Module.to(stored(model), torch.float32)
            measured = measure_perplexity(weights, held_out)
            start = measure_perplexity(weights, held_out[: plan.start_tokens + 1])
            click.echo(f"step {step}/{plan.steps}  held-out perplexity {measured.perplexity:.3f}")
            record = {
                "held_out": asdict(measured),
                "held_out_start": asdict(start),
                "plan": asdict(plan),
                "steps_done": step,
                "tokens_read": step * plan.tokens_per_step,
                "wall_seconds": round(seconds),
                "processor_seconds": round(time.process_time()),
                "about": about,
            }
            export(model, tokenizer, corpus, record, out)
    return measured


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--steps", type=int, default=Plan().steps, show_default=True)
@click.option("--minutes", type=float, help="As many steps as fit, instead of --steps.")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--seed", type=int, default=Plan().seed, show_default=True)
def main(out: Path, steps: int, minutes: float | None, threads: int, seed: int) -> None:
    """Train the demo checkpoint on the standard library's documentation."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    size, plan = Size(), Plan(steps=steps, seed=seed)
    if minutes is not None:
        plan = replace(plan, steps=steps_within(minutes, size, plan))
    entries = collect(Path(sysconfig.get_path("stdlib")))
    measured = run(size, plan, entries, out)
    click.echo(
        f"held-out perplexity {measured.perplexity:.3f} over {measured.scored_tokens} tokens"
    )


if __name__ == "__main__":
    main()
