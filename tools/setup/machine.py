"""What this machine has, as far as the set-up must know: a GPU, disk, memory, a C++ compiler."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .progress import human

MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts on which the set-up decides.

    Args:
        system: `Linux`, `Darwin`, ...
        has_gpu: an NVIDIA GPU whose driver answers.
        cores: processors this process may use.
        free_disk_bytes: on the checkout's file system, for this user.
        free_memory_bytes: what can be taken without swapping, and within a container's limit;
            None if unknown.
        compiler: the C++ compiler's first line of `--version`, None if there is none.
    """

    system: str
    has_gpu: bool
    cores: int
    free_disk_bytes: int
    free_memory_bytes: int | None
    compiler: str | None

    def __str__(self) -> str:
        memory = self.free_memory_bytes
        parts = (
            self.system,
            f"{self.cores} cores",
            f"free: {human(memory) if memory is not None else 'unknown'} of memory",
            f"{human(self.free_disk_bytes)} of disk",
            "an NVIDIA GPU" if self.has_gpu else "no NVIDIA GPU",
            self.compiler or "no C++ compiler",
        )
        return ", ".join(parts)


def look(root: Path) -> Machine:
    """Look at this machine. Runs `nvidia-smi` and the compiler, each for a moment."""
    system = platform.system()
    return Machine(
        system=system,
        has_gpu=system == "Linux" and has_gpu(),
        cores=len(os.sched_getaffinity(0)) if system == "Linux" else os.cpu_count() or 1,
        free_disk_bytes=shutil.disk_usage(root).free,
        free_memory_bytes=free_memory(),
        compiler=compiler(),
    )


def has_gpu(driver: Path = Path("/proc/driver/nvidia/version")) -> bool:
    """Whether an NVIDIA driver is loaded, or answers through `nvidia-smi` (as under WSL)."""
    return driver.exists() or first_line(["nvidia-smi", "-L"]) is not None


def compiler() -> str | None:
    """The first line that a C++ compiler prints about itself: $CXX, else the usual names."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    lines = (first_line([*name.split(), "--version"]) for name in names)
    return next((line for line in lines if line), None)


def free_memory(
    meminfo: Path = Path("/proc/meminfo"), limits: tuple[Path, ...] = MEMORY_LIMITS
) -> int | None:
    """Bytes of memory that are available, never more than a container's limit; None if unknown."""
    amounts = []
    for line in read(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            amounts.append(int(line.split()[1]) * 1024)
    for limit in limits:
        text = read(limit).strip()
        if text.isdigit():  # "max" where there is no limit
            amounts.append(int(text))
    if not amounts and (total := first_line(["sysctl", "-n", "hw.memsize"])):
        amounts.append(int(total))
    return min(amounts, default=None)


def read(path: Path) -> str:
    """A file's text, empty if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def first_line(command: list[str]) -> str | None:
    """The first line a command prints, None if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0].strip()
