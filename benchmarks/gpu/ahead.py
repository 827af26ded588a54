"""All kernels of some cases, compiled in processes of their own, and what they take of the GPU.

It says before anything runs which kernels do not compile or must not ship, and leaves what it
compiled in Triton's cache, where the processes that run kernels find it.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from graphopt.codegen.triton.buckets import buckets_of
from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.resources import resources_of
from graphopt.errors import GraphoptError
from graphopt.ledger import Verdict

from .case import Case

# Seconds that compiling one launch may take.
PATIENCE = 240.0


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a case's kernel before it ran.

    Attributes:
        kernel: None where there is none.
        status: ``made``, ``refused`` or ``failed``.
        reason: why there is none.
    """

    kernel: TritonKernel | None
    status: str = "made"
    reason: str = ""


def made_kernel(case: Case, arch: int) -> Made:
    """The kernel of a case, or why there is none; a maker that raises is a defect, and told."""
    try:
        found = case.kernel(arch)
    except Exception as error:  # noqa: BLE001 - the table shows it, and the suite fails
        return Made(None, "failed", f"{type(error).__name__}: {error}")
    if isinstance(found, Verdict):
        return Made(None, "refused", found.reason)
    return Made(found)


def fitting(kernel: TritonKernel, sizes: Mapping[str, int]) -> list[int]:
    """Places of the variants that are for these sizes."""
    return [place for place, one in enumerate(kernel.variants) if one.fits(sizes)]


@dataclass(frozen=True, slots=True)
class Report:
    """What compiling one launch of a variant found.

    Attributes:
        kernel: its name.
        launch: its function and constants.
        figures: registers, spills, shared memory, instructions.
        problems: why it must not ship, unless it has a sound alternative.
    """

    kernel: str
    launch: str
    figures: Mapping[str, Any]
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        return {"launch": self.launch, **self.figures, "problems": list(self.problems)}


def faults_of(kernels: Iterable[TritonKernel], reports: Iterable[Report]) -> list[Report]:
    """The reports of what must not ship: of alternatives one has to be sound.

    Alternatives of which not everything was compiled are passed over.
    """
    found = {(one.kernel, one.launch): one for one in reports}
    faults: dict[tuple[str, str], Report] = {}
    for kernel in kernels:
        for bucket in buckets_of(kernel.variants):
            ways = [
                [(kernel.name, title(one)) for one in way.launches] for way in bucket.candidates
            ]
            compiled = [way for way in ways if found.keys() >= {*way}]
            flawed = [[key for key in way if found[key].problems] for way in compiled]
            if all(flawed):
                faults |= {key: found[key] for way in flawed for key in way}
    return list(faults.values())


Job = tuple[TritonKernel, Variant, int]


def jobs_of(cases: Iterable[tuple[Case, TritonKernel]], arch: int) -> list[Job]:
    """Everything that these cases may launch, each once."""
    found: dict[tuple[str, str], Job] = {}
    for case, kernel in cases:
        for place in fitting(kernel, case.sizes):
            for launch in kernel.variants[place].launches:
                found.setdefault((kernel.name, title(launch)), (kernel, launch, arch))
    return list(found.values())


def title(launch: Variant) -> str:
    """A launch in words."""
    constants = ", ".join(f"{name} {value}" for name, value in launch.constants.items())
    return f"{launch.function}({constants}) {launch.num_warps} warps, {launch.num_stages} stages"


def compile_job(job: Job) -> Report:
    """Compile one launch and read what it takes."""
    kernel, launch, arch = job
    try:
        found = resources_of(compile_variant(kernel, launch, arch))
    except GraphoptError as error:
        return Report(kernel.name, title(launch), {}, (str(error)[:1500],))
    figures = {
        "registers": found.registers,
        "spill_bytes": found.spill_bytes,
        "shared_bytes": found.shared_bytes,
        "threads": found.threads,
        "programs": found.programs,
        "wgmma": found.has_wgmma,
        "tensor_cores": found.has_tensor_cores,
        "wide_loads": found.wide_loads,
        "narrow_loads": found.narrow_loads,
    }
    return Report(kernel.name, title(launch), figures, tuple(found.problems()))


def compile_all(
    jobs: Sequence[Job],
    processes: int | None = None,
) -> list[Report]:
    """The reports of all jobs, in order.

    Args:
        jobs: what is compiled.
        processes: how many at once; one a core if None, and with 0 it is done in this process.
    """
    if processes == 0 or not jobs:
        return [compile_job(job) for job in jobs]
    count = min(processes or os.cpu_count() or 1, len(jobs))
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    # The longest texts first, so that none of them begins last.
    for place in sorted(range(len(jobs)), key=lambda place: -len(jobs[place][0].text)):
        waiting.put(place)
    found: dict[int, Report] = {}
    with ThreadPoolExecutor(count) as lanes:
        for lane in [lanes.submit(_lane, jobs, waiting, found) for _ in range(count)]:
            lane.result()
    return [found[place] for place in range(len(jobs))]


def _lane(
    jobs: Sequence[Job],
    waiting: queue.SimpleQueue[int],
    found: dict[int, Report],
) -> None:
    """Compile what is waiting, in a process of its own: a compiler that dies costs one job."""
    pool = _process()
    try:
        while True:
            try:
                place = waiting.get_nowait()
            except queue.Empty:
                return
            kernel, launch, _ = jobs[place]
            try:
                found[place] = pool.submit(compile_job, jobs[place]).result(PATIENCE)
            except (BrokenExecutor, TimeoutError) as error:
                what = "took too long" if isinstance(error, TimeoutError) else "died"
                found[place] = Report(kernel.name, title(launch), {}, (f"its compiler {what}",))
                _end(pool)
                pool = _process()
    finally:
        _end(pool)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"))


def _end(pool: ProcessPoolExecutor) -> None:
    """Ends a pool's process, whatever it is doing."""
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.terminate()
    pool.shutdown(wait=False, cancel_futures=True)
