"""How many threads compute on a CPU, and where they run.

before:  what was asked for, what this process may use, and the environment
after:   a number of threads, and a CPU for each if they are to stay where they are

By default there is one thread per physical core: a second one on the same core shares its
arithmetic, and memory is read no faster. Threads are pinned only if they take all cores that the
process may use; otherwise another process that chose the same few cores would share them while
others idle.

Kernels run in OpenMP's parallel regions. What libgomp (12.2, two cores) was seen to do decides how
it is used here:

- Its threads belong to the thread that calls the region, and end with it. A region takes 1.0 µs to
  start while they spin, 1.2 µs after a pause of 50 µs, and 10 to 60 µs once they sleep.
- A second calling thread gets threads of its own. As soon as there are more of them than CPUs they
  stop spinning, and each region takes 9 to 14 µs, for both callers, until one of them ends. Nothing
  else is wrong with it: no thread goes on spinning, and few microseconds a step do not matter. So
  any thread may call, one at a time.
- By default a thread spins 300,000 times before it sleeps, 7 ms here, without ever giving its CPU
  to the one that it waits for. On a machine with other work an empty region then took 12 ms, and
  0.04 ms with 10,000 spins (medians, after a pause of 1 ms): ``limit_spinning``.
- A region that asks for fewer threads than the one before ends the others, and the next one starts
  them again, 0.1 to 12 ms. All regions of a process have to be of one size.
- A child made by ``fork`` has no threads to wait for, and hangs in its first region if its parent
  had one: ``ForkGuard``.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from graphopt.errors import MachineError, UsageError

OMP_THREADS = "OMP_NUM_THREADS"
# Either means that whoever started the process has said where threads belong.
_PLACED = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")
_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_SPINS = 10_000  # 0.23 ms here, where a pause takes 23 ns


@dataclass(frozen=True, slots=True)
class Machine:
    """What a process may use.

    Attributes:
        cores: the CPUs of each physical core, fastest kind of core only, ordered so that
            neighbours share memory.
        quota: CPUs' worth of time that the control group grants; None without a limit.
    """

    cores: tuple[tuple[int, ...], ...]
    quota: float | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where threads run.

    Attributes:
        threads: how many.
        cpus: the CPU of each; empty if the system decides.
    """

    threads: int
    cpus: tuple[int, ...] = ()


def this_machine(root: Path = Path("/"), allowed: Iterable[int] | None = None) -> Machine:
    """What this process may use.

    Args:
        root: where ``proc`` and ``sys`` are.
        allowed: CPUs it may run on; by default as the system says.
    """
    cpus = set(os.sched_getaffinity(0) if allowed is None else allowed)
    devices = root / "sys/devices"
    fast = cpus & _cpu_list(devices / "cpu_core/cpus")  # there where cores are of several kinds
    cores: dict[tuple[int, ...], tuple[int, int]] = {}
    nodes = _nodes(devices / "system/node")
    for cpu in sorted(fast or cpus):
        siblings = _cpu_list(devices / f"system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = tuple(sorted(cpus & (siblings | {cpu})))
        cores[core] = (nodes.get(cpu, 0), core[0])
    return Machine(tuple(sorted(cores, key=cores.__getitem__)), _quota(root))


def place_threads(
    wanted: int | None, machine: Machine, environment: Mapping[str, str] = os.environ
) -> Placement:
    """How many threads to use, and where.

    Args:
        wanted: how many were asked for; None for ``OMP_NUM_THREADS``, or one per core within the
            quota.
        machine: what may be used.
        environment: of the process.

    Raises:
        UsageError: the number is not one or more.
    """
    threads = wanted
    if threads is None:
        threads = _from_environment(environment.get(OMP_THREADS, ""))
    if threads is None:
        threads = len(machine.cores)
        if machine.quota is not None:
            threads = max(1, min(threads, int(machine.quota)))
    if threads < 1:
        raise UsageError("no threads to compute with", got=threads, expected="1 or more")
    return Placement(threads, _cpus_of(threads, machine, environment))


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting threads sleep early; before libgomp is loaded, as it asks only then."""
    if not any(environment.get(name) for name in _WAITS):
        environment["GOMP_SPINCOUNT"] = str(_SPINS)


class ForkGuard:
    """Keeps a forked process out of parallel regions, in which it would wait for ever.

    libgomp keeps its threads for the whole process, whoever uses them; so does this class the
    process that had the last region.

    Usage: ``ForkGuard.check()`` before kernels are loaded, ``ForkGuard.enter()`` before a region.
    """

    _process: ClassVar[int] = 0

    @classmethod
    def check(cls) -> None:
        """Demand that the threads that libgomp counts on are there.

        Raises:
            MachineError: they belong to the process that this one was forked from.
        """
        if cls._process not in (0, os.getpid()):
            raise MachineError(
                "the threads of compiled kernels stay in the process that started them",
                got=f"process {os.getpid()}, forked from {cls._process}",
                next="start the new process with spawn or forkserver, not fork, and load the model "
                "there",
            )

    @classmethod
    def enter(cls) -> None:
        """Write down that this process has a region.

        Raises:
            MachineError: see ``check``.
        """
        cls.check()
        cls._process = os.getpid()


class Pinning:
    """Keeps the threads of parallel regions on their CPUs.

    The calling thread itself is left where it is unless it is told to be ``ours``: what a pinned
    thread starts is pinned to the same CPU, be it a thread or a process.

    Args:
        library: exports ``gopt_pin`` and ``gopt_unpin``.
        placement: where the threads run.
        ours: every thread that calls runs nothing else.

    Usage: ``pinning.hold()`` before a region, ``pinning.release()`` after the last one.
    """

    def __init__(self, library: ctypes.CDLL, placement: Placement, *, ours: bool = False) -> None:
        self._library = library
        cpus = placement.cpus if ours else (-1, *placement.cpus[1:])
        self._cpus = np.array(cpus if len(placement.cpus) > 1 else (), dtype=np.int32)
        self._before = np.array(sorted(os.sched_getaffinity(0)), dtype=np.int32)
        self._held = 0

    def hold(self) -> None:
        """Pin the calling thread's team, unless it was the last to be pinned."""
        caller = threading.get_native_id()
        if len(self._cpus) and caller != self._held:
            self._library.gopt_pin(_pointer(self._cpus), ctypes.c_int32(len(self._cpus)))
            self._held = caller

    def release(self) -> None:
        """Let the calling thread's team run where it might before, if it is the one held."""
        if self._held == threading.get_native_id():
            count = ctypes.c_int32(len(self._before))
            threads = ctypes.c_int32(len(self._cpus))
            self._library.gopt_unpin(_pointer(self._before), count, threads)
            self._held = 0


def _pointer(array: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _cpus_of(threads: int, machine: Machine, environment: Mapping[str, str]) -> tuple[int, ...]:
    """A CPU for each thread, if together they take all that there is."""
    if any(environment.get(name) for name in _PLACED):
        return ()
    if machine.quota is not None and machine.quota < threads:
        return ()
    if threads == len(machine.cores):
        return tuple(core[0] for core in machine.cores)
    if threads == sum(map(len, machine.cores)):
        return tuple(cpu for core in machine.cores for cpu in core)
    return ()


def _from_environment(text: str) -> int | None:
    """The first number of ``OMP_NUM_THREADS``, which holds one for each level of nesting."""
    first = text.split(",")[0].strip()
    if not first:
        return None
    if not first.isdecimal():
        raise UsageError(
            f"{OMP_THREADS} is no number of threads", got=text, expected="such as 4, or unset"
        )
    return int(first)


def _cpu_list(file: Path) -> set[int]:
    """CPUs as the kernel lists them, ``0-3,8``; none if there is no such file."""
    cpus: set[int] = set()
    for part in _text(file).replace("\n", "").split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _nodes(folder: Path) -> dict[int, int]:
    """The memory node of each CPU."""
    return {
        cpu: int(node.name.removeprefix("node"))
        for node in folder.glob("node[0-9]*")
        for cpu in _cpu_list(node / "cpulist")
    }


def _quota(root: Path) -> float | None:
    """CPUs' worth of time that the process' control groups grant, the least of all above it."""
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        for mount in ("unified", "") if not controllers else (controllers, "cpu"):
            base = root / "sys/fs/cgroup" / mount
            folder = base / path.lstrip("/")
            # Inside a container the path may be the host's, and the base the container's own.
            for place in (folder, *folder.parents):
                limits.append(_limit(place))
                if place == base:
                    break
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _limit(folder: Path) -> float | None:
    """CPUs' worth of time that one control group grants."""
    fields = _text(folder / "cpu.max").split() or [
        _text(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    ]
    if len(fields) != 2 or not all(field.isdecimal() for field in fields) or not int(fields[1]):
        return None
    return int(fields[0]) / int(fields[1])


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
