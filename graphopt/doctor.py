"""What this machine can do with graphopt, what is missing, and what to do about it.

Each probe looks at one thing and answers with findings; a probe that fails is itself a finding.
Nothing is imported that takes long, PyTorch least of all: packages are known by their metadata.
"""

from __future__ import annotations

import csv
import enum
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt import __version__
from graphopt.cache import ArtifactCache, cache_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.int64]

GIB = 1 << 30
# A model of 1 B parameters takes 2 GB in bf16, and tracing it up to 1.5 GB more.
FEW_MEMORY_BYTES = 4 * GIB
FEW_DISK_BYTES = 5 * GIB
# A thread's share must not stay in its cache (96 MB is the largest level 3 that one core fills),
# and filling the arrays must not take seconds where there are many threads.
READ_BYTES_PER_THREAD = 128 << 20
READ_BYTES = 2 * GIB
READ_PASSES = 3
# For the comparison of pages: more than caches hold, and written to disk in a fraction of a second.
PAGES_BYTES = 256 << 20
PAGES_PASSES = 5
# A copy takes time and memory, and the rates of one machine differ by some percent from run to run.
WORTH_COPYING = 0.05
# Instructions that kernels choose by, as Linux names them.
X86_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16")
ARM_FLAGS = ("asimd", "asimddp", "bf16", "i8mm", "sve")
AVX512_FLAGS = frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl"))
CGROUP = Path("/sys/fs/cgroup")
COMPILER_TIMEOUT_S = 120

OPENMP_PROGRAM = """\
#include <cstdio>
#include <omp.h>
int main() {
    int threads = 0;
    #pragma omp parallel reduction(+ : threads)
    threads += 1;
    std::printf("%d %d", threads, _OPENMP);
}
"""


class Status(enum.StrEnum):
    """How a finding looks: as it should, usable with a drawback, or absent."""

    OK = "ok"
    WARN = "warn"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the report.

    Attributes:
        name: what was looked at.
        status: how it looks.
        found: what there is.
        means: what follows from it for the user; may be empty.
        todo: what to do about it; empty if nothing.
        required: whether graphopt cannot work while this is missing.
    """

    name: str
    status: Status
    found: str
    means: str = ""
    todo: str = ""
    required: bool = False

    @property
    def advice(self) -> str:
        """What follows and what to do, in one line."""
        return "; ".join(filter(None, (self.means, self.todo)))

    @property
    def blocks(self) -> bool:
        """Whether graphopt cannot work because of it."""
        return self.required and self.status is Status.MISSING


Probe = Callable[[], Iterable[Finding]]


def examine(probes: Sequence[tuple[str, Probe]]) -> list[Finding]:
    """Run the probes in order; one that fails becomes a warning that says how."""
    findings: list[Finding] = []
    for name, probe in probes:
        try:
            findings += probe()
        except (OSError, ValueError, ImportError, subprocess.SubprocessError) as error:
            found = f"could not be looked at: {type(error).__name__}: {error}"
            findings.append(Finding(name, Status.WARN, found))
    return findings


def default_probes(*, measure: bool = True) -> list[tuple[str, Probe]]:
    """Everything there is to look at; ``measure`` includes the memory bandwidth (half a second)."""
    probes: list[tuple[str, Probe]] = [
        ("graphopt", probe_self),
        ("python", probe_python),
        ("packages", probe_packages),
        ("C++ compiler", probe_compiler),
        ("CPU", probe_cpu),
        ("cores", probe_cores),
        ("memory", probe_memory),
        ("disk", probe_disk),
        ("cache", probe_cache),
        ("GPU", probe_gpu),
    ]
    if measure:
        probes += [("memory bandwidth", probe_bandwidth), ("pages of weights", probe_pages)]
    return probes


def probe_self() -> list[Finding]:
    """Which graphopt this is, and where it lies."""
    return [Finding("graphopt", Status.OK, f"{__version__} in {Path(__file__).parent}")]


def probe_python(version: tuple[int, ...] = sys.version_info[:3]) -> list[Finding]:
    """Whether Python is new enough."""
    found = f"{'.'.join(map(str, version))} at {sys.executable}"
    if version >= (3, 11):
        return [Finding("python", Status.OK, found)]
    todo = "install Python 3.11 or newer"
    return [Finding("python", Status.MISSING, found, "graphopt needs 3.11", todo, required=True)]


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package and the oldest version that works; ``extra`` is empty if it is always needed."""

    package: str
    oldest: str
    extra: str


def requirements(lines: Iterable[str]) -> list[Requirement]:
    """What the lines of a distribution's metadata ask for, without what serves only development."""
    listed = []
    for line in lines:
        match = re.match(r"([\w.-]+)\s*(?:\[[^\]]*\])?\s*(?:>=\s*([\w.]+))?", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if match and (extra is None or extra[1] != "dev"):
            listed.append(Requirement(match[1], match[2] or "0", extra[1] if extra else ""))
    return listed


def probe_packages() -> list[Finding]:
    """Whether what graphopt depends on is installed and new enough."""
    try:
        lines = metadata.requires("graphopt") or []
    except metadata.PackageNotFoundError:
        return [
            Finding(
                "packages",
                Status.WARN,
                "graphopt runs from its sources and is not installed",
                "which packages it needs is not known here",
                "pip install -e .",
            )
        ]
    return [look_at_package(row) for row in requirements(lines)]


def look_at_package(row: Requirement) -> Finding:
    """Whether one package is installed and new enough."""
    required = not row.extra
    todo = f"pip install '{row.package}>={row.oldest}'"
    if row.extra:
        todo = f"pip install 'graphopt[{row.extra}]'"
    try:
        version = metadata.version(row.package)
    except metadata.PackageNotFoundError:
        means = "graphopt needs it" if required else f"only needed for the extra {row.extra!r}"
        return Finding(row.package, Status.MISSING, "not installed", means, todo, required)
    if _numbers(version) < _numbers(row.oldest):
        means = f"{row.oldest} is the oldest version that works"
        return Finding(row.package, Status.MISSING, version, means, todo, required)
    if row.package == "torch":
        return Finding("torch", Status.OK, version, _torch_build(version))
    return Finding(row.package, Status.OK, version)


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version: ``2.13.0+cpu`` is (2, 13, 0)."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _torch_build(version: str) -> str:
    asks = " ".join(metadata.requires("torch") or [])
    cuda = "+cu" in version or ("+" not in version and "nvidia-" in asks)
    return "a build for NVIDIA GPUs" if cuda else "a build for the CPU"


def probe_compiler(candidates: Sequence[str] | None = None) -> list[Finding]:
    """Compile and run a small OpenMP program with the first C++ compiler that there is."""
    chosen = os.environ.get("CXX")
    names = candidates or ([chosen] if chosen else ["c++", "g++", "clang++"])
    program = next((name for name in names if shutil.which(name.split()[0])), None)
    if program is None:
        return [
            Finding(
                "C++ compiler",
                Status.MISSING,
                f"none of {', '.join(names)}",
                "kernels in C++ cannot be compiled; every step runs through PyTorch",
                "install one: apt-get install g++, or set CXX",
            )
        ]
    with tempfile.TemporaryDirectory() as folder:
        return _try_compiler(program.split(), Path(folder))


def _try_compiler(program: list[str], folder: Path) -> list[Finding]:
    source, binary = folder / "probe.cpp", folder / "probe"
    source.write_text(OPENMP_PROGRAM, encoding="utf-8")
    name = _first_line([*program, "--version"]) or program[0]
    build = _run([*program, "-std=c++17", "-O2", "-fopenmp", str(source), "-o", str(binary)])
    if build.returncode != 0:
        complaint = (build.stderr.strip() or build.stdout.strip()).splitlines()
        means = "it cannot build an OpenMP program: " + (complaint[0] if complaint else "no reason")
        todo = "install OpenMP for it: apt-get install libomp-dev (clang), or use g++ through CXX"
        return [Finding("C++ compiler", Status.WARN, name, means, todo)]
    run = _run([str(binary)])
    if run.returncode != 0:
        means = f"what it builds does not run: exit code {run.returncode} {run.stderr.strip()}"
        return [Finding("C++ compiler", Status.WARN, name, means, "use another one through CXX")]
    threads, openmp = run.stdout.split()
    return [
        Finding("C++ compiler", Status.OK, name),
        Finding("OpenMP", Status.OK, f"{threads} threads, version {openmp}"),
    ]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=COMPILER_TIMEOUT_S, check=False
    )


def _first_line(command: Sequence[str]) -> str | None:
    """The first line that a command prints; None if it is absent or fails."""
    try:
        done = _run(command)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def cpu_facts(cpuinfo: str) -> tuple[str, frozenset[str]]:
    """The CPU's name and its flags, from the text of ``/proc/cpuinfo``; empty where not said."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or fields.get("cpu model") or ""
    return name, frozenset((fields.get("flags") or fields.get("features") or "").split())


def probe_cpu(
    cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = platform.machine()
) -> list[Finding]:
    """Which CPU this is and which of the instruction sets it has that kernels are written for."""
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    name, flags = cpu_facts(text)
    name = name or _first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) or machine
    findings = [Finding("CPU", Status.OK, f"{name} ({machine})")]
    known = X86_FLAGS if machine in ("x86_64", "AMD64") else ARM_FLAGS
    has = [flag for flag in known if flag in flags]
    found = " ".join(has) or "none that is known"
    if flags >= AVX512_FLAGS:
        row = Finding("instruction sets", Status.OK, found, "target cpu is cpu:avx512 here")
    elif {"avx2", "fma"} <= flags:
        row = Finding("instruction sets", Status.OK, found, "target cpu is cpu:avx2 here")
    elif machine in ("x86_64", "AMD64") and flags:
        means = "target cpu is cpu:portable here, which is slow"
        row = Finding("instruction sets", Status.WARN, found, means)
    else:
        row = Finding("instruction sets", Status.OK, found, "target cpu is cpu:portable here")
    return [*findings, row]


def probe_cores(cgroup: Path = CGROUP) -> list[Finding]:
    """How many cores this process may use, and what holds it back."""
    import psutil

    total = os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or total
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total)
    notes = []
    if usable < total:
        notes.append(f"this process may use {usable:g} of {total}")
    quota = cpu_quota(cgroup)
    if quota is not None and quota < usable:
        notes.append(f"the container may use {quota:g}")
        usable = quota
    means = "; ".join(notes)
    found = f"{usable:g} usable, {physical} physical, {total} logical"
    if usable < 2:
        return [Finding("cores", Status.WARN, found, means or "one core decodes slowly")]
    return [Finding("cores", Status.OK, found, means)]


def cpu_quota(cgroup: Path) -> float | None:
    """How many cores a container may use; None if there is no limit."""
    words = _read(cgroup / "cpu.max").split()
    if len(words) == 2 and words[0].isdigit():
        return int(words[0]) / int(words[1])
    quota = _read(cgroup / "cpu/cpu.cfs_quota_us").strip()
    period = _read(cgroup / "cpu/cpu.cfs_period_us").strip()
    if quota.isdigit() and period.isdigit():
        return int(quota) / int(period)
    return None


def memory_limit(cgroup: Path) -> tuple[int, int] | None:
    """A container's memory limit and what is used of it, in bytes; None if there is no limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        words = _read(cgroup / limit).strip(), _read(cgroup / used).strip()
        # Version 1 writes a number near 2**63 where there is no limit.
        if all(word.isdigit() for word in words) and int(words[0]) < 1 << 60:
            return int(words[0]), int(words[1])
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def probe_memory(cgroup: Path = CGROUP) -> list[Finding]:
    """How much memory is free, a container's limit included."""
    import psutil

    memory = psutil.virtual_memory()
    free, total, means = memory.available, memory.total, ""
    limit = memory_limit(cgroup)
    if limit is not None and limit[0] < total:
        total = limit[0]
        free = min(free, max(0, limit[0] - limit[1]))
        means = "the container's limit"
    found = f"{free / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    # Weights in bf16 take two bytes a parameter; a quarter of what is free goes to the KV cache.
    fits = f"holds about {free * 3 / 4 / 2 / 1e9:.1f} B parameters in bfloat16"
    means = f"{means}; {fits}" if means else fits
    if free < FEW_MEMORY_BYTES:
        return [Finding("memory", Status.WARN, found, means, "close other programs")]
    return [Finding("memory", Status.OK, found, means)]


def probe_disk(folder: Path | None = None) -> list[Finding]:
    """How much disk is free where compiled checkpoints are kept."""
    place = _existing(folder or cache_folder())
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free at {place}"
    if free < FEW_DISK_BYTES:
        means = "an artifact is as large as its checkpoint"
        return [Finding("disk", Status.WARN, found, means, "free some, or set GRAPHOPT_CACHE")]
    return [Finding("disk", Status.OK, found)]


def probe_cache(folder: Path | None = None) -> list[Finding]:
    """Where compiled checkpoints are kept, whether it can be written, and how large it is."""
    cache = ArtifactCache(folder)
    place = cache.folder.parent
    entries = list(cache.entries())
    size = sum(entry.nbytes for entry in entries)
    found = f"{place}, {len(entries)} artifacts, {size / GIB:.2f} GiB"
    if not os.access(_existing(place), os.W_OK):
        means = "checkpoints cannot be compiled into the cache"
        return [Finding("cache", Status.WARN, found, means, "set GRAPHOPT_CACHE")]
    return [Finding("cache", Status.OK, found)]


def _existing(path: Path) -> Path:
    """``path`` or the nearest folder above it that exists."""
    absolute = path.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def probe_gpu(
    query: Sequence[str] = (
        "nvidia-smi",
        "--query-gpu=name,compute_cap,memory.total,driver_version",
        "--format=csv,noheader,nounits",
    ),
    driver: Path = Path("/proc/driver/nvidia/version"),
) -> list[Finding]:
    """Which NVIDIA GPUs there are."""
    try:
        done = _run(query)
    except (OSError, subprocess.SubprocessError):
        done = None
    if done is not None and done.returncode == 0 and done.stdout.strip():
        rows = csv.reader(done.stdout.strip().splitlines(), skipinitialspace=True)
        return [_gpu_row(row) for row in rows]
    if driver.is_file():
        found = f"a driver is loaded: {_read(driver).splitlines()[0].strip()}"
        means = "nvidia-smi does not answer, so the GPU is not known"
        return [Finding("GPU", Status.WARN, found, means, "look at: nvidia-smi")]
    return [Finding("GPU", Status.MISSING, "no NVIDIA GPU", "models run on the CPU")]


def _gpu_row(row: Sequence[str]) -> Finding:
    name, capability, memory, driver = row
    sm = "sm_" + capability.replace(".", "")
    found = f"{name}, {sm}, {int(memory) / 1024:.0f} GiB, driver {driver}"
    if "+cpu" in _installed("torch"):
        means = "PyTorch is a build for the CPU and cannot use it"
        return Finding("GPU", Status.WARN, found, means, "install PyTorch's build for CUDA")
    return Finding("GPU", Status.OK, found)


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def probe_bandwidth() -> list[Finding]:
    """How fast all cores together read memory, which bounds how fast a model decodes."""
    import psutil

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    affordable = psutil.virtual_memory().available // 4
    share = min(READ_BYTES_PER_THREAD, min(READ_BYTES, affordable) // threads)
    rate = read_bandwidth(share, threads)
    found = f"{rate / 1e9:.1f} GB/s read by {threads} threads"
    means = f"at most {rate / 2e9:.0f} tokens/s for 1 B parameters in bfloat16, one sequence"
    return [Finding("memory bandwidth", Status.OK, found, means)]


def read_bandwidth(bytes_per_thread: int, threads: int) -> float:
    """Bytes per second that ``threads`` threads read, the best of a few passes.

    The maximum over 64-bit integers is vectorized by numpy and releases the interpreter's lock.
    """
    import numpy as np

    arrays = [np.ones(bytes_per_thread // 8, dtype=np.int64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return max(_read_rate(pool, arrays) for _ in range(READ_PASSES))


def _read_rate(pool: ThreadPoolExecutor, arrays: Sequence[Words]) -> float:
    """Bytes per second of one pass over ``arrays``, a thread for each."""
    start = time.perf_counter()
    for _peak in pool.map(lambda array: array.max(), arrays):
        pass
    return sum(array.nbytes for array in arrays) / (time.perf_counter() - start)


def probe_pages(folder: Path | None = None) -> list[Finding]:
    """Whether weights are read faster from a copy in huge pages than from their file's pages."""
    import psutil

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    nbytes = min(PAGES_BYTES, psutil.virtual_memory().available // 8)
    mapped, copied = read_both(_existing(folder or cache_folder()), nbytes, threads)
    found = f"{mapped / 1e9:.1f} GB/s from a file's pages, {copied / 1e9:.1f} GB/s from a copy"
    gain = copied / mapped - 1
    if gain < WORTH_COPYING:
        means = "a copy of the weights does not pay"
    else:
        means = f"--weights copy decodes up to {gain:.0%} faster, and takes their size in memory"
    return [Finding("pages of weights", Status.OK, found, means)]


def read_both(folder: Path, nbytes: int, threads: int) -> tuple[float, float]:
    """Bytes per second read from a file in ``folder`` that is mapped, and from a copy of it.

    Passes over the two take turns, so that other work slows both.
    """
    import numpy as np

    from graphopt.runtime.executors.weight_memory import huge_pages
    from graphopt.safetensors_io import private_map

    words = nbytes // 8 // threads
    with tempfile.TemporaryFile(dir=folder) as file, ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            file.write(np.ones(words, dtype=np.int64).data)
        file.flush()
        block = np.frombuffer(private_map(file), dtype=np.int64)
        copy = huge_pages(block.nbytes).view(np.int64)
        mapped, copied = np.split(block, threads), np.split(copy, threads)
        for _copied in pool.map(np.copyto, copied, mapped):
            pass
        rates = [(_read_rate(pool, mapped), _read_rate(pool, copied)) for _ in range(PAGES_PASSES)]
    return max(rate for rate, _ in rates), max(rate for _, rate in rates)
