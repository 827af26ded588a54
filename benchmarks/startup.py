"""How fast things start: imports, the first token of a fresh process, and tracing an 8B shape.

    python -m benchmarks.startup [--rounds 5]

Each sample is a process of its own. The rounds are interleaved, so that a slow moment of a shared
machine falls on all rows alike.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import PRINT_PEAK, Run, run_python, summary, write_results
from benchmarks.sparse_checkpoint import write_sparse_llama

DEMO = Path(__file__).parent.parent / "examples" / "demo-llama"
IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
FIRST_TOKEN = """
import sys, graphopt
with graphopt.LLM(sys.argv[1]) as llm:
    print(llm.generate(["Return the"], graphopt.SamplingParams(max_tokens=1, temperature=0.0)))
"""
FIRST_TOKEN_HF = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer("Return the", return_tensors="pt")
print(model.generate(**ids, max_new_tokens=1, do_sample=False))
"""
TRACE = """
import sys, time
started = time.perf_counter()
from graphopt.api import compile_graph, compile_options
from graphopt.frontend.checkpoint import Checkpoint
compile_graph(Checkpoint.open(sys.argv[1]), compile_options())
print(time.perf_counter() - started)
"""


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description="How fast things start")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    from graphopt.api import compile_checkpoint

    samples: dict[str, list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "demo.gopt"
        compile_checkpoint(DEMO, artifact)
        big = write_sparse_llama(Path(folder) / "llama-8b")
        for number in range(rounds):
            samples["import graphopt"].append(run_python(IMPORT.format("graphopt") + PRINT_PEAK))
            samples["import the runtime"].append(
                run_python(IMPORT.format("graphopt.runtime.llm") + PRINT_PEAK)
            )
            samples["first token, demo"].append(run_python(FIRST_TOKEN + PRINT_PEAK, str(artifact)))
            samples["first token, transformers"].append(
                run_python(FIRST_TOKEN_HF + PRINT_PEAK, str(DEMO))
            )
            if number < max(1, rounds // 2):
                samples["trace and passes, 8B"].append(run_python(TRACE + PRINT_PEAK, str(big)))
    table = Table("what", "median s", "min", "max", "peak MB")
    rows = {}
    for name, runs in samples.items():
        seconds = summary([_inner_seconds(run) for run in runs])
        peak = summary([run.peak_bytes / 1e6 for run in runs])
        rows[name] = {"seconds": seconds, "process_peak_mb": peak}
        figures = [f"{seconds[key]:.2f}" for key in ("median", "min", "max")]
        table.add_row(name, *figures, f"{peak['median']:.0f}")
    Console().print(table)
    print(f"written to {write_results('cpu/startup', rows)}")


def _inner_seconds(run: Run) -> float:
    """What the program measured itself, or the whole process where it measured nothing."""
    try:
        return float(run.output.splitlines()[-1])
    except (ValueError, IndexError):
        return run.seconds


if __name__ == "__main__":
    main()
