"""Whether this machine can carry the set-up: each check answers with a problem or with None."""

from __future__ import annotations

from .machine import Machine
from .problem import Problem
from .progress import human

# Measured with du, once a second, while pip ran on Linux with Python 3.11 and PyTorch 2.13: 1.4 GB
# at the peak with the CPU build and 6.5 GB with the CUDA build. Beside it pip may keep a cache of
# what it downloaded, 0.3 GB and 2.5 GB, and linters and tests write some hundred megabytes.
CPU_DISK_BYTES = 2_500_000_000
CUDA_DISK_BYTES = 10_000_000_000

# Measured peaks: pip 0.6 GB (with the CUDA build), a test worker 0.75 GB.
MEMORY_BYTES = 1_500_000_000


def check_system(machine: Machine) -> Problem | None:
    """Refuse systems on which neither the Makefile nor the runtime has ever run."""
    if machine.system in ("Linux", "Darwin"):
        return None
    return Problem(
        "graphopt is set up on Linux and macOS only",
        got=machine.system,
        expected="Linux or macOS",
        next="on Windows, use the Windows Subsystem for Linux",
    )


def check_disk(machine: Machine, need_bytes: int, present_bytes: int) -> Problem | None:
    """Compare the free disk with what an install takes at its peak, less what is there already."""
    missing = need_bytes - present_bytes
    if machine.free_disk_bytes >= missing:
        return None
    return Problem(
        "too little disk for the environment",
        got=f"{human(machine.free_disk_bytes)} free on the checkout's file system",
        expected=f"{human(missing)}, measured at the install's peak",
        next="free some space, or clone into a larger file system",
    )


def check_memory(machine: Machine) -> Problem | None:
    """Compare the free memory with what the demo and one test worker take."""
    if machine.free_memory_bytes is None or machine.free_memory_bytes >= MEMORY_BYTES:
        return None
    return Problem(
        "too little memory",
        got=f"{human(machine.free_memory_bytes)} free",
        expected=f"{human(MEMORY_BYTES)}, measured for pip, the demo and one test worker",
        next="close other programs, or raise the container's memory limit",
    )


def check_compiler(machine: Machine) -> Problem | None:
    """Say what does not work without a C++ compiler; nothing of the set-up itself needs one."""
    if machine.compiler is not None:
        return None
    return Problem(
        "there is no C++ compiler: models run through PyTorch, and C++ kernels cannot be compiled",
        got="none of $CXX, c++, g++, clang++ runs",
        expected="GCC 11 or newer, or Clang 14 or newer",
        next="Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; "
        "macOS: xcode-select --install",
    )
