"""What rounding weights costs: the demo checkpoint's perplexity on text that it never saw.

    python -m benchmarks.perplexity [--precision bf16 int8 int4] [--tokens 4096]

The checkpoint is compiled in each precision and scores its held-out text with the compiled kernels,
in windows of 512 tokens of which each new one is scored with 256 or more before it: as
`examples/train_demo.py` measured it with transformers in float32, which is kept beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import write_results

DEMO = Path(__file__).parent.parent / "examples" / "demo-llama"
QUANTIZE = {"bf16": None, "int8": "int8", "int4": "int4"}
CONTEXT, STRIDE = 512, 256  # tokens


@dataclass(frozen=True, slots=True)
class Score:
    """A perplexity, and over how many tokens."""

    perplexity: float
    tokens: int


def score(precision: str, tokens: int | None, folder: Path) -> Score:
    """The perplexity of the held-out text's first tokens.

    Args:
        precision: a key of ``QUANTIZE``.
        tokens: how many; None for all.
        folder: where to put the artifact.
    """
    import graphopt

    artifact = folder / f"{precision}.gopt"
    graphopt.compile_checkpoint(DEMO, artifact, dtype="bfloat16", quantize=QUANTIZE[precision])
    with graphopt.LLM(artifact) as llm:
        text = (DEMO / "heldout.txt").read_text(encoding="utf-8")
        ids = list(llm.tokenizer.encode(text) if llm.tokenizer else ())
        ids = ids[: tokens + 1 if tokens else None]
        nats, scored = 0.0, 0
        for start in range(0, len(ids) - 1, STRIDE):
            window = ids[start : start + CONTEXT]
            fresh = len(window) - 1 if start == 0 else len(window) - (CONTEXT - STRIDE)
            if fresh <= 0:
                break
            found = llm.score(window)[-fresh:]
            nats -= sum(one for one in found if one is not None)
            scored += fresh
    return Score(math.exp(nats / scored), scored)


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
    parser.add_argument("--precision", nargs="+", choices=tuple(QUANTIZE), default=[*QUANTIZE])
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
