"""What to run on a machine with a GPU, in which order, in calls of at most ten minutes.

    python -m tools.gpu_machine                     the list, and what this machine lacks for it
    python -m tools.gpu_machine kernels --out DIR   run steps; what they write goes to DIR

A step that fails ends the run with its status; the ones after it build on it. ``docs/gpu.md`` says
what each shows, and what to commit.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

OUT = "OUT"  # stands for the folder that results go to
PYTHON = "python"  # stands for the interpreter that runs this


@dataclass(frozen=True, slots=True)
class Step:
    """One call.

    Attributes:
        name: as given on the command line.
        shows: what is known after it.
        minutes: that it takes at most.
        command: with OUT where results go.
        needs: modules that must be importable.
    """

    name: str
    shows: str
    minutes: int
    command: str
    needs: tuple[str, ...] = ("torch", "triton", "rich", "jinja2", "networkx")


_TEST = ("torch", "triton", "pytest", "hypothesis", "psutil", "networkx")
_PLANS = (
    *_TEST,
    *("cuda.bindings", "transformers", "accelerate", "safetensors", "blake3", "llguidance"),
)
STEPS: tuple[Step, ...] = (
    Step(
        "jit",
        "small cases of every kernel are right, by Triton's own launcher",
        8,
        f"{PYTHON} -m benchmarks.gpu --suite correctness --jit --out {OUT}/jit.json",
    ),
    Step(
        "correctness",
        "the same by cubins as a serving process launches them, and by Triton's launcher",
        8,
        f"{PYTHON} -m benchmarks.gpu --suite correctness --out {OUT}/correctness.json",
        ("torch", "triton", "rich", "jinja2", "networkx", "cuda.bindings"),
    ),
    Step(
        "kernels",
        "real sizes are right; their times beside the machine's rates and their peers'",
        10,
        f"{PYTHON} -m benchmarks.gpu --suite kernels --minutes 8 --out {OUT}/kernels.json",
    ),
    Step(
        "cases",
        "everything that the interpreter is given in tests is right on the device",
        10,
        f"{PYTHON} -m pytest -p tests.gpu.on_device -m 'interpreted and not full' "
        "tests/codegen/triton --ignore tests/codegen/triton/test_interpreter.py",
        _TEST,
    ),
    Step(
        "tests",
        "every kernel, ragged and real, by both launchers, as tests",
        10,
        f"{PYTHON} -m pytest -m gpu tests/gpu/test_kernels.py",
        _TEST,
    ),
    Step(
        "plans",
        "a whole plan gives the tokens that transformers gives, launched plainly and captured",
        10,
        f"{PYTHON} -m pytest -m gpu tests/gpu/test_plans.py",
        _PLANS,
    ),
    Step(
        "families",
        "seven families' tokens and rounding, few bits, vectors, ten thousand requests that come "
        "and go, and the same bits in any batch",
        10,
        f"{PYTHON} -m pytest -m gpu tests/gpu/test_families.py tests/gpu/test_determinism.py "
        "tests/gpu/test_few_bits.py tests/gpu/test_embeddings.py",
        _PLANS,
    ),
    Step(
        "hangs",
        "a kernel that does not end is found, and the piece that it is in",
        10,
        f"{PYTHON} -m pytest -m gpu tests/gpu/test_watchdog.py",
        _PLANS,
    ),
    Step(
        "sanitizer",
        "no stray access and no race in shared memory",
        10,
        f"{PYTHON} -m pytest -m gpu tests/gpu/test_sanitizer.py",
        _TEST,
    ),
    Step(
        "variants",
        "whether the variants that sizes choose are the fastest",
        10,
        f"{PYTHON} -m benchmarks.gpu --variants --no-compiled-peers --out {OUT}/variants.json",
    ),
    Step(
        "artifact",
        "a checkpoint compiles for this kind of GPU; another checkpoint's path does as well",
        10,
        f"{PYTHON} -m graphopt compile examples/demo-llama -o {OUT}/demo.gopt --target cuda:sm_90",
        ("torch", "triton", "transformers", "accelerate", "safetensors", "click", "blake3"),
    ),
    Step(
        "tune",
        "the fastest way to run each of that artifact's kernels",
        10,
        f"{PYTHON} -m graphopt tune {OUT}/demo.gopt -o {OUT}/tuned",
        ("torch", "triton", "cuda.bindings", "click", "blake3"),
    ),
    Step(
        "models",
        "whole models: start, decodes, prompts and serving, beside transformers and vLLM",
        10,
        f"{PYTHON} -m benchmarks.gpu --suite e2e --models models --minutes 8 --out {OUT}/e2e.json",
        (*_PLANS, "tokenizers", "click"),
    ),
)

Run = Callable[[Sequence[str], float], int]


def missing(step: Step) -> list[str]:
    """Modules that a step needs and this machine lacks."""
    return [name for name in step.needs if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def listed() -> str:
    """The steps in order, as text."""
    lines = []
    for number, step in enumerate(STEPS, 1):
        lines.append(f"{number}. {step.name} ({step.minutes} min): {step.shows}")
        lines.append(f"   {step.command}")
        if lacking := missing(step):
            lines.append(f"   missing here: {', '.join(lacking)}")
    return "\n".join(lines)


def command_of(step: Step, out: Path) -> list[str]:
    """What runs a step."""
    words = shlex.split(step.command)
    words[0] = sys.executable
    return [word.replace(f"{OUT}/", f"{out}/") for word in words]


def run_here(command: Sequence[str], seconds: float) -> int:
    """Run a command; 124 if it takes longer."""
    try:
        return subprocess.run(list(command), timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return 124


def main(arguments: Sequence[str] | None = None, run: Run = run_here) -> int:
    """List the steps or run some; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_machine", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    by_name = {step.name: step for step in STEPS}
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(by_name))
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="for results")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.steps if name not in by_name]:
        parser.error(f"no step {unknown[0]}: there are {', '.join(by_name)}")
    if not options.steps:
        print(listed())
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.steps:
        step = by_name[name]
        started = time.perf_counter()
        status = run(command_of(step, options.out), 60.0 * step.minutes)
        print(f"{name}: exit status {status} after {time.perf_counter() - started:.0f} s")
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
