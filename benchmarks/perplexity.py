"""What rounding weights costs: the demo checkpoint's perplexity on text that it never saw.

    python -m benchmarks.perplexity [--precision bf16 int8 int4 fp8 ...] [--tokens 4096]

The checkpoint is compiled in each precision and scores its held-out text with the compiled kernels,
in windows of 512 tokens of which each new one is scored with 256 or more before it: as
`examples/train_demo.py` measured it with transformers in float32, which is kept beside it. What
only a GPU computes is computed by the reference that its kernels are held against.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import graphopt
from benchmarks.harness import write_results

DEMO = Path(__file__).parent.parent / "examples" / "demo-llama"
QUANTIZE = {"bf16": None, "int8": "int8", "int4": "int4"}
# What a GPU has besides: how weights are rounded, and what keys and values are kept in.
ON_GPU: dict[str, tuple[str | None, str | None]] = {
    "int4 weights only": ("int4", None),
    "w8a8": ("w8a8", None),
    "fp8": ("fp8", None),
    "fp8-tensor": ("fp8-tensor", None),
    "keys and values in fp8": (None, "fp8"),
    "keys and values in fp8-e5m2": (None, "fp8-e5m2"),
}
KINDS = (*QUANTIZE, *ON_GPU)
Scorer = Callable[[list[int]], list[float]]
CONTEXT, STRIDE, BLOCK = 512, 256, 16  # tokens


@dataclass(frozen=True, slots=True)
class Score:
    """A perplexity, and over how many tokens."""

    perplexity: float
    tokens: int


def score(precision: str, tokens: int | None, folder: Path) -> Score:
    """The perplexity of the held-out text's first tokens.

    Args:
        precision: a key of ``QUANTIZE`` or ``ON_GPU``.
        tokens: how many; None for all.
        folder: where to put the artifact.
    """
    from graphopt.runtime.tokenizer import Tokenizer

    text = (DEMO / "heldout.txt").read_text(encoding="utf-8")
    ids = list(Tokenizer.load(DEMO).encode(text))[: tokens + 1 if tokens else None]
    if precision in ON_GPU:
        return _windows(ids, _reference(*ON_GPU[precision]))
    artifact = folder / f"{precision}.gopt"
    graphopt.compile_checkpoint(DEMO, artifact, dtype="bfloat16", quantize=QUANTIZE[precision])
    with graphopt.LLM(artifact) as llm:
        return _windows(ids, lambda window: [one or 0.0 for one in llm.score(window)[1:]])


def _windows(ids: list[int], scored_by: Scorer) -> Score:
    """The perplexity of tokens, window after window."""
    nats, scored = 0.0, 0
    for start in range(0, len(ids) - 1, STRIDE):
        window = ids[start : start + CONTEXT]
        fresh = len(window) - 1 if start == 0 else len(window) - (CONTEXT - STRIDE)
        if fresh <= 0:
            break
        nats -= sum(scored_by(window)[-fresh:])
        scored += fresh
    return Score(math.exp(nats / scored), scored)


def _reference(quantize: str | None, kv_dtype: str | None) -> Scorer:
    """Scores tokens by the reference of a GPU's graph: log-probabilities of all but the first."""
    import torch

    from graphopt.frontend.arrays import weight_loader
    from graphopt.frontend.checkpoint import Checkpoint
    from graphopt.frontend.conversion import bind
    from graphopt.frontend.trace import trace
    from graphopt.ir.dtype import DType
    from graphopt.ir.interpreter import Interpreter
    from graphopt.ir.reference import PagedState, torch_dtype
    from graphopt.ir.types import StateType, TensorType
    from graphopt.passes.manager import PassContext, run_passes
    from graphopt.passes.pipeline import decoder_pipeline

    source = Checkpoint.open(DEMO)
    traced = trace(source.config, dtype=DType.BF16)
    load = weight_loader(traced.graph, bind(traced.model, source), traced.constants)
    weights = {}
    for one in traced.graph.weights:
        dtype = one.type.dtype if isinstance(one.type, TensorType) else DType.BF16
        weights[one.name] = torch.as_tensor(load(one.name)).view(torch_dtype(dtype))
    pipeline = decoder_pipeline(traced.scalars, quantize, weight_only=True, kv_dtype=kv_dtype)
    graph, _ = run_passes(traced.graph, pipeline, PassContext())
    (state,) = (one.type for one in graph.inputs if isinstance(one.type, StateType))
    interpreter = Interpreter(graph, weights)

    def scored(window: list[int]) -> list[float]:
        count = len(window)
        places = torch.arange(count)
        (logits,) = interpreter.run(
            {
                "token_ids": torch.tensor(window),
                "positions": places,
                "rows": places,
                "slots": places,
                "starts": torch.tensor([0, count], dtype=torch.int32),
                "lengths": torch.tensor([count], dtype=torch.int32),
                "tables": torch.arange(-(-count // BLOCK), dtype=torch.int32)[None],
                "kv": PagedState.allocate(state, -(-count // BLOCK), BLOCK),
            }
        )
        each = torch.log_softmax(logits[:-1].float(), -1)
        found: list[float] = each.gather(1, torch.tensor(window[1:])[:, None])[:, 0].tolist()
        return found

    return scored


def recorded() -> Score:
    """What was measured after training, in float32."""
    record = json.loads((DEMO / "training.json").read_text())["held_out"]
    return Score(record["perplexity"], record["scored_tokens"])


def table(scores: dict[str, Score]) -> Table:
    """Each precision beside bf16."""
    found = Table(title="perplexity of the demo checkpoint, held-out text", title_justify="left")
    for column in ("weights", "perplexity", "against bf16", "tokens"):
        found.add_column(column)
    base = scores["bf16"].perplexity
    for name, one in scores.items():
        share = f"{100 * (one.perplexity / base - 1):+.2f} %"
        found.add_row(name, f"{one.perplexity:.3f}", share, str(one.tokens))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description="What rounding weights costs")
    parser.add_argument("--precision", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--tokens", type=int, help="of the held-out text; all if not given")
    options = parser.parse_args(arguments)
    precisions = dict.fromkeys(["bf16", *options.precision])
    with tempfile.TemporaryDirectory() as folder:
        scores = {name: score(name, options.tokens, Path(folder)) for name in precisions}
    Console().print(table(scores))
    if not options.tokens:
        scores["transformers, float32"] = recorded()
        rows = {name: asdict(one) for name, one in scores.items()}
        print("written to", write_results("cpu/perplexity", rows))


if __name__ == "__main__":
    main()
