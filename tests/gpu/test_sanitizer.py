"""NVIDIA's sanitizer finds nothing in the small cases: no stray access, no race in shared memory.

Where the tool is not installed there is nothing to run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.cases import families, small_cases
from benchmarks.gpu.worker import Job

pytestmark = pytest.mark.gpu
NAME = "compute-sanitizer"
PLACES = (shutil.which(NAME), shutil.which(NAME, path="/usr/local/cuda/bin"))
TOOL = next((place for place in PLACES if place), None)
CHECKS = ("memcheck", "racecheck") if TOOL else ()
FOUND = 9  # its exit status if it finds something


def names_of(family: str) -> tuple[str, ...]:
    """Two cases of a family: it takes seconds for what takes milliseconds."""
    own = [f"small/{case.name}" for case in small_cases() if case.family == family]
    return tuple(dict.fromkeys((own[0], own[-1])))


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("check", CHECKS)
def test_it_finds_nothing(check: str, family: str, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(Job(names_of(family), ("jit",)).to_json())
    options = ["--tool", check, "--error-exitcode", str(FOUND)]
    others = ["--kernel-name-exclude", "kernel_substring=at::native"]  # PyTorch's own are not ours
    ran = subprocess.run(
        [str(TOOL), *options, *others, sys.executable, "-m", "benchmarks.gpu.worker", str(job)],
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    assert ran.stdout.count('"status": "right"') == len(names_of(family)), ran.stdout[-3000:]
