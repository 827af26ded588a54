"""One engine in a process of its own, told what to do over a pipe.

    python -m benchmarks.peers.worker llama_cpp MODEL --threads 2 --sequences 16 --context 2048

Each line of standard input is a JSON object: `do` names a method of `Worker`, the rest are its
arguments. Each answer is one line of standard output: `{"found": ...}` or `{"error": ...}`. What
an engine prints itself goes to standard error. Only Python's own library is imported besides the
engine, so that the process starts as fast as the engine can.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.peers.runner import Job, Runner

ENGINES = (
    "graphopt",
    "hf",
    "hf_compile",
    "llama_cpp",
    "openvino",
    "onnxruntime",
    "gpu_graphopt",
    "gpu_hf",
    "gpu_hf_wide",
    "gpu_vllm",
)


class Worker:
    """What a process can be asked."""

    def __init__(self, engine: str, job: Job) -> None:
        module = import_module(f"benchmarks.peers.engines.{engine}")
        self.runner: Runner = module.Engine(job)

    def load(self) -> dict[str, Any]:
        """Import the engine, load the model; how long that took, in seconds."""
        started = time.perf_counter()
        self.runner.import_engine()
        imported = time.perf_counter()
        self.runner.load()
        return {"import_s": imported - started, "load_s": time.perf_counter() - imported}

    def about(self) -> dict[str, Any]:
        """Versions, the bytes that a step reads, and what else is known of the engine."""
        return {
            "versions": self.runner.versions(),
            "weight_bytes": self.runner.weight_bytes(),
            **self.runner.facts(),
        }

    def generate(self, prompts: list[list[int]], steps: int) -> dict[str, Any]:
        """See :meth:`Runner.generate`."""
        return asdict(self.runner.generate(prompts, steps))

    def serve(self, prompts: list[list[int]], outputs: list[int]) -> dict[str, Any]:
        """See :meth:`Runner.serve`."""
        return asdict(self.runner.serve(prompts, outputs))

    def steady(self, prompts: list[list[int]], steps: int) -> dict[str, Any]:
        """See :meth:`Runner.steady`."""
        return asdict(self.runner.steady(prompts, steps))

    def score(self, prompts: list[list[int]]) -> dict[str, Any]:
        """See :meth:`Runner.score`."""
        return {"logprobs": self.runner.score(prompts)}

    def peak(self) -> dict[str, Any]:
        """Peak resident memory in bytes."""
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return {"peak_bytes": int(line.split()[1]) * 1024}
        return {"peak_bytes": None}


ASKED = ("load", "about", "generate", "serve", "steady", "score", "peak")


def answer(worker: Worker, line: str) -> dict[str, Any]:
    """What `worker` says to one line."""
    try:
        request = json.loads(line)
        name = request.pop("do")
        if name not in ASKED:
            return {"error": f"unknown request {name!r}; known are {', '.join(ASKED)}"}
        return {"found": getattr(worker, name)(**request)}
    except Exception as error:  # noqa: BLE001 (whatever an engine raises is its answer)
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer until standard input ends."""
    parser = argparse.ArgumentParser(description="One engine in a process of its own")
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--sequences", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = Job(options.path, options.threads, options.sequences, options.context)
    worker = Worker(options.engine, job)
    for line in sys.stdin:
        answers.write(json.dumps(answer(worker, line)) + "\n")
        answers.flush()
    os._exit(0)  # some engines take long to end, and nothing is left to do


if __name__ == "__main__":
    main()
