"""The PyTorch that is chosen for each machine; CUDA packages are not downloaded unasked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from tools.setup import torch_build
from tools.setup.machine import Machine
from tools.setup.pip import Pip
from tools.setup.problem import SetupError
from tools.setup.torch_build import Installed

CPU = Machine("Linux", False, 2, 10**11, 10**10, "g++ 12")
GPU = replace(CPU, has_gpu=True)


@dataclass
class FakePip:
    """Answers from a table, and remembers what it was asked."""

    offers: dict[str, dict[str, str] | None]
    asked: list[str] = field(default_factory=list)

    def resolve(self, *requirements: str) -> dict[str, str] | None:
        self.asked += requirements
        return self.offers.get(requirements[0])


def choose(machine: Machine, pip: FakePip, allow_cuda: bool = False) -> torch_build.Choice:
    return torch_build.choose(machine, cast(Pip, pip), allow_cuda=allow_cuda)


CUDA_OFFER = {"torch": "2.15.0", "nvidia-cublas": "13", "nvidia-nccl-cu13": "2", "triton": "3.9"}


def test_the_cpu_build_is_taken_where_one_is_offered() -> None:
    pip = FakePip({"torch==2.13.0+cpu": {"torch": "2.13.0+cpu"}})
    choice = choose(CPU, pip)
    assert (choice.requirement, choice.brings_cuda) == ("torch==2.13.0+cpu", False)
    assert pip.asked == ["torch==2.13.0+cpu"]


def test_the_gpu_build_is_taken_where_there_is_a_gpu() -> None:
    pip = FakePip({"torch==2.13.0+cpu": {"torch": "2.13.0+cpu"}})
    choice = choose(GPU, pip)
    assert (choice.requirement, choice.brings_cuda) == ("torch==2.13.0,!=2.13.0+cpu", True)
    assert pip.asked == []


def test_a_plain_build_without_cuda_will_do() -> None:
    pip = FakePip({torch_build.SUPPORTED: {"torch": "2.14.0", "sympy": "1.14"}})
    choice = choose(CPU, pip)
    assert (choice.requirement, choice.brings_cuda) == ("torch==2.14.0", False)


def test_cuda_packages_are_refused_unasked() -> None:
    pip = FakePip({torch_build.SUPPORTED: CUDA_OFFER})
    with pytest.raises(SetupError) as error:
        choose(CPU, pip)
    assert error.value.of_this_python
    message = str(error.value)
    assert "torch 2.15.0, which brings 3 packages of CUDA: nvidia-cublas" in message
    assert "make GRAPHOPT_TORCH_INDEX=" in message
    assert "make GRAPHOPT_ALLOW_CUDA_TORCH=1" in message


def test_cuda_packages_are_taken_when_allowed() -> None:
    pip = FakePip({torch_build.SUPPORTED: CUDA_OFFER})
    choice = choose(CPU, pip, allow_cuda=True)
    assert (choice.requirement, choice.brings_cuda) == ("torch==2.13.0", True)


def test_no_offer_at_all_is_refused() -> None:
    with pytest.raises(SetupError, match="no CPU build of PyTorch"):
        choose(CPU, FakePip({}))


def test_other_systems_have_one_build() -> None:
    choice = choose(replace(CPU, system="Darwin"), FakePip({}))
    assert (choice.requirement, choice.brings_cuda) == ("torch>=2.11", False)


@pytest.mark.parametrize(
    ("machine", "present", "expected"),
    [
        (CPU, None, False),
        (CPU, Installed("2.10.0", None, False), False),
        (CPU, Installed("2.9.1+cpu", None, False), False),
        (CPU, Installed("2.11.0", None, False), True),
        (CPU, Installed("3.0.0+cpu", None, False), True),
        (CPU, Installed("2.13.0", "13.0", False), True),
        (GPU, Installed("2.13.0+cpu", None, False), False),
        (GPU, Installed("2.13.0", "13.0", True), True),
    ],
)
def test_what_is_there_is_kept_if_it_fits(
    machine: Machine, present: Installed | None, expected: bool
) -> None:
    assert torch_build.fits(machine, present) is expected


def test_a_gpu_that_pytorch_cannot_use_is_said() -> None:
    assert torch_build.check_installed(CPU, Installed("2.13.0+cpu", None, False)) is None
    assert torch_build.check_installed(GPU, Installed("2.13.0", "13.0", True)) is None
    without = torch_build.check_installed(GPU, Installed("2.13.0+cpu", None, False))
    assert without is not None
    assert "GRAPHOPT_TORCH_INDEX" in without.next
    driver = torch_build.check_installed(GPU, Installed("2.13.0", "13.0", False))
    assert driver is not None
    assert driver.next == "update the NVIDIA driver"


def test_installed_asks_the_environment(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho a warning\necho '[\"2.13.0+cpu\", null, false]'\n")
    python.chmod(0o755)
    assert torch_build.installed(python) == Installed("2.13.0+cpu", None, False)
    python.write_text("#!/bin/sh\nexit 1\n")
    assert torch_build.installed(python) is None
