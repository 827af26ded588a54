"""How long compiling takes, stage by stage, beside torch.export and torch.compile.

    python -m benchmarks.compile_time [--rounds 3]

graphopt: an 8B and a 70B shape from their headers alone (nothing is written), the demo checkpoint
into an artifact, and the same again out of the cache, as commands of their own. torch: the same
8B shape without weights through torch.export, to the exported program and no further; and the first
call of torch.compile (inductor, CPU) on a model with layers of the 8B size, as many as --layers
says, with random weights, minus a second call that finds it compiled. graphopt traces, rewrites and
plans that one, too. What graphopt does not do yet, generating native code, inductor's time holds.

Each sample is a process of its own; rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import PRINT_PEAK, Run, run_python, summary, write_results
from benchmarks.sparse_checkpoint import LLAMA_8B, write_sparse_llama

DEMO = Path(__file__).parent.parent / "examples" / "demo-llama"
LLAMA_70B = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
STAGES = """
import json, sys, time
started = time.perf_counter()
from graphopt.api import compile_graph, compile_options
from graphopt.frontend.checkpoint import Checkpoint
source = Checkpoint.open(sys.argv[1])
source.config
imported = time.perf_counter() - started
done = compile_graph(source, compile_options(dtype=sys.argv[2]))
total = time.perf_counter() - started
stages = {"imports": imported, **done.seconds}
stages |= {f"pass {row.name}": row.seconds for row in done.reports}
stages |= {"passes": sum(row.seconds for row in done.reports), "total": total}
print(json.dumps(stages))
"""
COMPILE = """
import json, sys, time
started = time.perf_counter()
from graphopt.cli.main import cli
try:
    cli(["compile", sys.argv[1], "--json"])
except SystemExit as done:
    if done.code:
        raise
print(json.dumps({"total": time.perf_counter() - started}))
"""
EXPORT = """
import json, sys, time
started = time.perf_counter()
import torch
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained(sys.argv[1])
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
model.eval()
imported = time.perf_counter() - started
ids = torch.zeros(1, 64, dtype=torch.int64, device="meta")
length = torch.export.Dim("length", min=2, max=4096)
with torch.no_grad():
    torch.export.export(
        model, (), {"input_ids": ids, "use_cache": False},
        dynamic_shapes={"input_ids": {1: length}, "use_cache": None}, strict=False,
    )
total = time.perf_counter() - started
print(json.dumps({"imports": imported, "tracing": total - imported, "total": total}))
"""
INDUCTOR = """
import json, os, sys, tempfile, time
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
import torch
from transformers import AutoConfig, AutoModelForCausalLM
dtype = getattr(torch, sys.argv[2])
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]), dtype=dtype)
model.eval()
compiled = torch.compile(model, dynamic=True)
ids = torch.arange(16).reshape(1, 16)
times = []
with torch.no_grad():
    for _ in range(2):
        started = time.perf_counter()
        compiled(input_ids=ids, use_cache=False)
        times.append(time.perf_counter() - started)
first, second = times
print(json.dumps({"first call": first, "second call": second, "total": first - second}))
"""


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description="How long compiling takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=2, help="layers of the model for inductor")
    parser.add_argument("--dtype", default="bfloat16", help="its element type")
    parser.add_argument("--no-torch", action="store_true", help="leave the peers out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        samples = measure(Path(folder), options)
    rows = {name: row_of(runs) for name, runs in samples.items()}
    Console().print(table_of(rows))
    print(f"written to {write_results('cpu/compile_time', rows)}")


def measure(folder: Path, options: argparse.Namespace) -> Mapping[str, list[Run]]:
    """All samples, by what was measured."""
    shapes = {"8B": LLAMA_8B, "70B": LLAMA_70B}
    places = {name: write_sparse_llama(folder / name, shape) for name, shape in shapes.items()}
    layers = {**LLAMA_8B, "num_hidden_layers": options.layers, "vocab_size": 32000}
    small = write_sparse_llama(folder / "small", layers)
    what, dtype = f"{options.layers} layers of 8B", options.dtype
    samples: dict[str, list[Run]] = defaultdict(list)

    def sample(name: str, code: str, *arguments: str, **env: str) -> None:
        run = run_python(code + PRINT_PEAK, *arguments, env={"HF_HUB_OFFLINE": "1", **env})
        samples[name].append(run)
        print(f"{name}: {figures(run)['total']:.2f} s", file=sys.stderr)

    for number in range(options.rounds):
        cache = str(folder / f"cache-{number}")
        for name, place in places.items():
            sample(f"graphopt, {name}", STAGES, str(place), "bfloat16")
        sample("graphopt, demo, first", COMPILE, str(DEMO), GRAPHOPT_CACHE=cache)
        sample("graphopt, demo, again", COMPILE, str(DEMO), GRAPHOPT_CACHE=cache)
        sample(f"graphopt, {what}, {dtype}", STAGES, str(small), dtype)
        if not options.no_torch:
            sample("torch.export, 8B", EXPORT, str(places["8B"]))
            sample(f"torch.compile, {what}, {dtype}", INDUCTOR, str(small), dtype)
    return samples


def figures(run: Run) -> dict[str, float]:
    """What a program measured of itself: seconds by stage, and in all."""
    found: dict[str, float] = json.loads(run.output.splitlines()[-1])
    return found


def row_of(runs: list[Run]) -> dict[str, Any]:
    """Medians and spreads of every stage of some runs, and of the memory they took."""
    stages = [figures(run) for run in runs]
    return {
        "seconds": {name: summary([one[name] for one in stages]) for name in stages[0]},
        "process_peak_mb": summary([run.peak_bytes / 1e6 for run in runs]),
    }


def table_of(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """The stages that take a hundredth of the whole or more."""
    table = Table("what", "stage", "median s", "min", "max")
    for name, row in rows.items():
        whole = row["seconds"]["total"]["median"]
        for stage, seconds in row["seconds"].items():
            if seconds["median"] >= 0.01 * whole or stage == "total":
                cells = [f"{seconds[key]:.2f}" for key in ("median", "min", "max")]
                table.add_row(name if stage == "total" else "", stage, *cells)
    return table


if __name__ == "__main__":
    main()
