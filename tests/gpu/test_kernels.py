"""Every kernel on the device, ragged and at the sizes of models, through both launchers."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.ahead import compile_all, jobs_of, made_kernel
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.case import Case
from benchmarks.gpu.cases import real_cases, small_cases
from benchmarks.gpu.launch import Cubins, Jit, Launcher
from benchmarks.gpu.machine import architecture

pytestmark = pytest.mark.gpu
CASES = [*small_cases(), *real_cases()]


@pytest.fixture(scope="module")
def device() -> torch.device:
    return torch.device("cuda")


@pytest.fixture(scope="module")
def compiled(device: torch.device) -> None:
    """All kernels, by many processes at once; what runs them finds them in Triton's cache."""
    arch = architecture(device)
    kernels = [(case, made_kernel(case, arch).kernel) for case in CASES]
    compile_all(jobs_of(((case, kernel) for case, kernel in kernels if kernel is not None), arch))


@pytest.fixture(params=["cubin", "jit"], scope="module")
def launcher(request: pytest.FixtureRequest, device: torch.device, compiled: None) -> Launcher:
    return Jit() if request.param == "jit" else Cubins(architecture(device))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_right(case: Case, launcher: Launcher, device: torch.device) -> None:
    row = Bench(device, [launcher]).run(case)
    assert row["status"] == "right", row
