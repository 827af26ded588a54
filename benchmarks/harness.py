"""What every benchmark needs: the machine, the versions, fresh processes, and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Run:
    """One process from start to end: wall time, peak resident memory and what it printed."""

    seconds: float
    peak_bytes: int
    output: str


def run_python(code: str, *arguments: str, env: Mapping[str, str] | None = None) -> Run:
    """Run ``code`` in a fresh interpreter.

    Raises:
        RuntimeError: it failed; the message is what it wrote to standard error.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    output, errors = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise RuntimeError(errors)
    lines = output.splitlines()
    peak = int(lines.pop()) if lines and lines[-1].isdigit() else 0
    return Run(seconds, peak, "\n".join(lines))


# Appended to a program, prints its peak resident memory in bytes as the last line. Linux's own
# counter of the process is asked first: getrusage also counts what the parent had when it forked.
PRINT_PEAK = """
try:
    rows = open("/proc/self/status").read().splitlines()
    print(next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM")))
except (OSError, StopIteration):
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def machine() -> dict[str, Any]:
    """The processor, its cores and the versions that matter."""
    model = platform.processor()
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(row.split(":")[1].strip() for row in rows if row.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = {}
    for name in ("graphopt", "torch", "transformers", "triton", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def summary(samples: Sequence[float]) -> dict[str, Any]:
    """Median, extremes and every sample."""
    return {
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
        "samples": list(samples),
    }


def write_results(name: str, rows: Mapping[str, Any]) -> Path:
    """Write ``rows`` under ``benchmarks/results/``, with the machine they were measured on."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "rows": dict(rows)}, indent=1) + "\n")
    return path
