"""Which build of PyTorch belongs here: the GPU build where there is a GPU, else one without CUDA.

A plain `torch` brings gigabytes of CUDA packages on Linux. A machine without an NVIDIA GPU has no
use for them: there the set-up asks for a CPU build, and refuses rather than download them unasked.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .machine import Machine
from .pip import Pip
from .problem import Problem, SetupError

TESTED = "2.13.0"
SUPPORTED = "torch>=2.11"
OLDEST_SUPPORTED = (2, 11)
ALLOW_CUDA = "GRAPHOPT_ALLOW_CUDA_TORCH"
INDEX = "GRAPHOPT_TORCH_INDEX"


@dataclass(frozen=True, slots=True)
class Choice:
    """A requirement for pip, and the reason for it.

    Args:
        requirement: such as `torch==2.13.0+cpu`.
        reason: why this one, as part of a sentence.
        brings_cuda: whether CUDA packages come with it.
    """

    requirement: str
    reason: str
    brings_cuda: bool


@dataclass(frozen=True, slots=True)
class Installed:
    """The PyTorch that an environment has.

    Args:
        version: such as `2.13.0+cpu`.
        cuda: the CUDA version it was built for, None for a CPU build.
        sees_gpu: whether it can use a GPU here and now.
    """

    version: str
    cuda: str | None
    sees_gpu: bool

    def __str__(self) -> str:
        return f"torch {self.version} ({f'CUDA {self.cuda}' if self.cuda else 'CPU build'})"


def choose(machine: Machine, pip: Pip, *, allow_cuda: bool, version: str = TESTED) -> Choice:
    """Choose a build for this machine.

    Args:
        machine: this machine.
        pip: the environment's pip, asked what it is offered.
        allow_cuda: whether CUDA packages will do on a machine without a GPU.
        version: the PyTorch version that is wanted.

    Raises:
        SetupError: only builds with CUDA are offered, and this machine has no GPU.
    """
    if machine.system != "Linux":
        return Choice(SUPPORTED, f"{machine.system} has one build only", brings_cuda=False)
    if machine.has_gpu:
        # A CPU build of the same version sorts above the plain one, and pip would prefer it.
        requirement = f"torch=={version},!={version}+cpu"
        return Choice(
            requirement, "this machine has an NVIDIA GPU, so the GPU build", brings_cuda=True
        )
    cpu_build = f"torch=={version}+cpu"
    if pip.resolve(cpu_build):
        return Choice(cpu_build, "no NVIDIA GPU is here, so the CPU build", brings_cuda=False)
    return without_named_cpu_build(pip, allow_cuda, version)


def without_named_cpu_build(pip: Pip, allow_cuda: bool, version: str) -> Choice:
    """Choose where no build is called `+cpu`: a plain one may be free of CUDA too, as on Arm."""
    if allow_cuda:
        return Choice(f"torch=={version}", "no CPU build of it is offered", brings_cuda=True)
    offered = pip.resolve(SUPPORTED) or {}
    cuda = sorted(name for name in offered if name.startswith("nvidia-") or name == "triton")
    if offered and not cuda:
        return Choice(f"torch=={offered['torch']}", "it brings no CUDA packages", brings_cuda=False)
    got = f"torch {offered.get('torch', '(none)')}"
    if cuda:
        got += f", which brings {len(cuda)} packages of CUDA: {', '.join(cuda[:3])} ..."
    raise SetupError(
        Problem(
            "no NVIDIA GPU is here, and pip is offered no CPU build of PyTorch for this Python",
            got=got,
            expected=f"torch=={version}+cpu",
            next=f"point pip at PyTorch's index of CPU wheels: make {INDEX}=<its address> ...\n"
            "(PyTorch's own install page shows the address under Linux, Pip, CPU),\n"
            f"or take the CUDA packages, about 5 GB on disk: make {ALLOW_CUDA}=1 ...",
        ),
        of_this_python=True,
    )


def installed(python: Path) -> Installed | None:
    """The PyTorch of an environment; None if there is none or it cannot be imported."""
    program = (
        "import json, torch; "
        "print(json.dumps([torch.__version__, torch.version.cuda, torch.cuda.is_available()]))"
    )
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True)
    if done.returncode != 0:
        return None
    version, cuda, sees_gpu = json.loads(done.stdout.splitlines()[-1])
    return Installed(version, cuda, sees_gpu)


def fits(machine: Machine, present: Installed | None) -> bool:
    """Whether the PyTorch that is there will do: recent, and built for the GPU if there is one."""
    if present is None:
        return False
    numbers = tuple(int(part) for part in present.version.split("+")[0].split(".")[:2])
    return numbers >= OLDEST_SUPPORTED and not (machine.has_gpu and present.cuda is None)


def check_installed(machine: Machine, present: Installed) -> Problem | None:
    """Say so where a machine with a GPU ended up with a PyTorch that cannot use it."""
    if not machine.has_gpu or present.sees_gpu:
        return None
    if present.cuda is None:
        expected = "a build for CUDA"
        remedy = f"name an index that offers one: make setup {INDEX}=<its address>"
    else:
        expected = "a driver that is recent enough for it"
        remedy = "update the NVIDIA driver"
    return Problem(
        "an NVIDIA GPU is here, but the PyTorch that pip installed cannot use it",
        got=str(present),
        expected=expected,
        next=remedy,
    )
