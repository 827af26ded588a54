"""Cases of the sampler: rows of logits to tokens, against the numpy sampler of the runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.sampling import sampler
from graphopt.ir.dtype import DType
from graphopt.ir.reference import torch_dtype
from graphopt.ledger import Verdict
from graphopt.loop_kernels import SAMPLE_OPERANDS, SAMPLE_RESULTS
from graphopt.runtime.executor import SamplingInputs
from graphopt.runtime.sampler import sample

from .case import Case, Result, Tensors, Work


def small_sampling() -> Iterator[Case]:
    """Vocabularies of less than a tile, of one, and of a little more."""
    for rows, vocab in ((1, 100), (3, 1025), (5, 2049)):
        yield sampling(rows, vocab, greedy=True)
        yield sampling(rows, vocab)


def real_sampling() -> Iterator[Case]:
    """The vocabularies of models, greedy and with all filters."""
    for rows in (1, 64):
        yield sampling(rows, 128256, greedy=True)
        yield sampling(rows, 128256)
    yield sampling(64, 262144)


def sampling(rows: int, vocab: int, *, greedy: bool = False) -> Case:
    """Tokens of rows; by top-k, top-p, min-p and a draw if not greedy."""

    def kernel(arch: int) -> TritonKernel | Verdict:
        return sampler(DType.F32, vocab)

    def work(device: torch.device, seed: int) -> Work:
        return _work(rows, vocab, greedy, device, seed)

    return Case(
        f"sample {rows} x {vocab}{', greedy' if greedy else ''}",
        "sampling",
        {"R": rows, "K": 0},
        kernel,
        work,
        nbytes=4.0 * rows * vocab,
        eager=_argmax if greedy else None,
        peers={} if greedy else {"torch": _filtered},
    )


def _work(rows: int, vocab: int, greedy: bool, device: torch.device, seed: int) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    logits = 3 * torch.randn(rows, vocab, generator=generator, device=device)
    places = torch.arange(rows)
    chosen = {
        "targets": torch.full((rows,), -1),
        "temperatures": torch.full((rows,), 0.0 if greedy else 0.8),
        "top_ks": torch.full((rows,), 0 if greedy else min(50, vocab)),
        "top_ps": torch.full((rows,), 1.0 if greedy else 0.95),
        "min_ps": torch.full((rows,), 0.0 if greedy else 0.01),
        "repetition": torch.ones(rows),
        "seeds": places * 7 + seed,
        "streams": places % 3,
        "counters": places + 11,
        "num_logprobs": torch.full((rows,), -1),
        "mask_rows": torch.full((rows,), -1),
    }
    tensors = {"logits": logits}
    for name, dtype in SAMPLE_OPERANDS.items():
        count = rows + 1 if name.endswith("_starts") else rows
        made = chosen.get(name, torch.zeros(count))
        tensors[name] = made.to(torch_dtype(dtype)).to(device)
    results: dict[str, Result] = {}
    for name, dtype in SAMPLE_RESULTS.items():
        shape = (0,) if name.startswith("top_") else (rows,)
        results[name] = Result.poisoned(name, shape, torch_dtype(dtype), device)
    pointers = [
        *tensors.values(),
        *(one.whole for one in results.values() if one.whole is not None),
    ]
    told = [results[name] for name in ("token_ids", "status")]
    sizes = {"R": rows, "K": 0}
    return Work(tensors, pointers, told, lambda: _expected(tensors, greedy), sizes)


def _expected(given: Tensors, greedy: bool) -> list[Tensor]:
    rows = given["logits"].shape[0]
    host = {name: tensor.cpu().numpy() for name, tensor in given.items()}
    inputs = SamplingInputs(
        rows,
        temperature=host["temperatures"],
        top_k=host["top_ks"],
        top_p=host["top_ps"],
        min_p=host["min_ps"],
        seeds=host["seeds"].astype("uint64"),
        streams=host["streams"].astype("uint64"),
        counters=host["counters"].astype("uint64"),
    )
    found = sample(host["logits"], SamplingInputs(rows) if greedy else inputs)
    tokens = torch.from_numpy(found.token_ids).to(given["logits"].device)
    return [tokens, torch.zeros_like(tokens, dtype=torch.uint8)]


def _argmax(given: Tensors) -> Tensor:
    return given["logits"].argmax(-1)


def _filtered(work: Work) -> Callable[[], Tensor]:
    """The usual way: sort, cut, draw; another random number, so its tokens are not ours."""
    logits = work.tensors["logits"]

    def run() -> Tensor:
        top, places = torch.topk(logits / 0.8, min(50, logits.shape[-1]), -1)
        chances = torch.softmax(top, -1)
        before = chances.cumsum(-1) - chances
        kept = (before < 0.95) & (chances >= 0.01 * chances[:, :1])
        drawn = torch.multinomial(chances * kept, 1)
        # Twice as many as there are rows: what it draws is not held against what we draw.
        return places.gather(-1, drawn).expand(-1, 2)

    return run
