"""Variants to cubins, many at once in processes of their own, each kept by its content.

before:  kernels and the variants of them that are wanted
after:   for each variant its cubins and what they take, or why it does not compile

What is kept is found by the text, the options, the architecture, and the versions of Triton and of
what reads resources, so a kernel that several artifacts share is compiled once, and Triton is not
even imported where everything is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

from graphopt.cache import cache_folder
from graphopt.errors import CompileError, MachineError
from graphopt.ledger import Verdict, refuse
from graphopt.progress import ProgressFn, silent

from .interpreter import SWITCH
from .kernel import TritonKernel, Variant
from .worker import Built, job_to_json, read, read_failure

NO_TRITON = "kernels for a GPU need Triton"
# Changes when what is kept of a cubin does.
_FORMAT = 4
_WORKER = "from graphopt.codegen.triton.worker import main; main()"


@dataclass(frozen=True, slots=True)
class Request:
    """A variant of a kernel that is wanted."""

    kernel: TritonKernel
    variant: Variant


@dataclass(frozen=True, slots=True)
class _Job:
    """One launch of a variant, and the file that its cubin is kept in."""

    kernel: TritonKernel
    launch: Variant
    file: Path


# A variant's launches, compiled; or why one of them does not compile.
Outcome = tuple[Built, ...] | Verdict


def triton_version() -> str:
    """Which Triton compiles; ``none`` without one. It is not imported."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return "none"


def demand_triton() -> None:
    """Demand that kernels for a GPU can be compiled.

    Raises:
        MachineError: Triton is not installed.
    """
    if triton_version() == "none":
        raise MachineError(
            NO_TRITON, expected="triton 3.6 or later", next="pip install 'graphopt[cuda]'"
        )


def build_all(
    requests: Sequence[Request],
    arch: int,
    *,
    jobs: int | None = None,
    progress: ProgressFn = silent,
) -> list[Outcome]:
    """Compile variants; the answers are in the order of ``requests``.

    Args:
        requests: the variants.
        arch: such as 90 for ``sm_90``.
        jobs: processes that run at once; by default one per CPU.
        progress: told how far the work is.

    Raises:
        MachineError: Triton is missing, a process died, or what it makes cannot be kept.
    """
    with _store() as (folder, env):
        wanted = [_jobs_of(one, arch, folder) for one in requests]
        found: dict[Path, Built] = {}
        failures: dict[Path, CompileError] = {}
        missing: dict[Path, _Job] = {}
        for job in (job for group in wanted for job in group):
            if job.file in found or job.file in missing or job.file in failures:
                continue
            if (kept := read(job.file)) is not None:
                found[job.file] = kept
            elif (why := _as_error(read_failure(job.file))) is not None:
                failures[job.file] = why
            else:
                missing[job.file] = job
        if missing:
            failures |= _compile(list(missing.values()), arch, env, jobs, progress)
        for file in missing.keys() - failures.keys():
            made = read(file)
            if made is None:
                raise MachineError("a compiled kernel was lost", where=str(file), next="try again")
            found[file] = made
        return [_outcome(group, found, failures) for group in wanted]


def _jobs_of(request: Request, arch: int, folder: Path) -> list[_Job]:
    found = []
    for launch in request.variant.launches:
        facts = (_FORMAT, job_to_json(request.kernel, launch), arch, triton_version())
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        found.append(_Job(request.kernel, launch, folder / f"{key}.cubin"))
    return found


def _outcome(
    group: Sequence[_Job], found: Mapping[Path, Built], failures: Mapping[Path, CompileError]
) -> Outcome:
    for job in group:
        if (error := failures.get(job.file)) is not None:
            return refuse(f"{error.what}: {_short(error.got)}", job.launch.function)
    return tuple(found[job.file] for job in group)


def _short(text: str | None) -> str:
    """The last lines of an error: those that say what is wrong."""
    return "\n".join((text or "").strip().splitlines()[-8:])


@contextmanager
def _store() -> Iterator[tuple[Path, dict[str, str]]]:
    """Where cubins are kept, and the environment of those who make them.

    They are kept in the cache, or nowhere for long if that cannot be written.
    """
    with tempfile.TemporaryDirectory() as own:
        home = cache_folder().absolute()
        folder = home / "cubins"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Whether a folder can be made, which permissions alone do not tell.
            tempfile.TemporaryDirectory(dir=folder, prefix=".build-").cleanup()
        except (OSError, RuntimeError):  # RuntimeError: the user has no home
            home = Path(own, "cache")
            folder = home / "cubins"
            folder.mkdir(parents=True)
        yield folder, _environment(home, Path(own, "triton"))


def _environment(home: Path, own: Path) -> dict[str, str]:
    """The environment of a compiling process: this one's modules, and no interpreter."""
    env = {name: value for name, value in os.environ.items() if name != SWITCH}
    return env | {
        "GRAPHOPT_CACHE": str(home),
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        "TRITON_CACHE_DIR": str(own),  # it would keep every stage of every kernel
    }


def _compile(
    jobs: Sequence[_Job],
    arch: int,
    env: Mapping[str, str],
    processes: int | None,
    progress: ProgressFn,
) -> dict[Path, CompileError]:
    """Compile ``jobs``; those that the compiler refuses are in the answer."""
    demand_triton()
    queue: SimpleQueue[_Job] = SimpleQueue()
    # The largest texts first, so that none of them begins last.
    for job in sorted(jobs, key=lambda one: -len(one.kernel.text)):
        queue.put(job)
    failures: dict[Path, CompileError] = {}
    lock, done = Lock(), 0
    stage = f"compiling kernels for sm_{arch}"
    progress(stage, 0, len(jobs))

    def work() -> None:
        nonlocal done
        with _Process(env) as process:
            while True:
                try:
                    job = queue.get_nowait()
                except Empty:
                    return
                error = process.run(job, arch)
                with lock:
                    if error is not None:
                        failures[job.file] = error
                    done += 1
                    progress(stage, done, len(jobs))

    count = max(1, min(processes or len(os.sched_getaffinity(0)), len(jobs)))
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work) for _ in range(count)]:
            future.result()
    return failures


class _Process:
    """A process that compiles, from its first job to its last."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=dict(env),
        )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def run(self, job: _Job, arch: int) -> CompileError | None:
        """Do a job; the error of the compiler if it refuses.

        Raises:
            MachineError: the process died, or lacks something.
        """
        row = {"kernel": job_to_json(job.kernel, job.launch), "arch": arch, "file": str(job.file)}
        line = self._ask(json.dumps(row))
        if not line:
            raise MachineError(
                "a process that compiles kernels died",
                where=job.launch.function,
                got=self._last_words(),
                next="if memory ran out, compile again when more is free",
            )
        return _as_error(json.loads(line)["error"])

    def _ask(self, line: str) -> str:
        """The answer to a line; nothing if the process is gone."""
        if self._process.stdin is None or self._process.stdout is None:
            return ""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except OSError:
            return ""

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read().strip()[-1000:] or f"exit code {self._process.poll()}"


def _as_error(facts: Mapping[str, Any] | None) -> CompileError | None:
    """The compiler's error of these facts.

    Raises:
        MachineError: it is not the compiler's.
    """
    if facts is None:
        return None
    rest = {name: value for name, value in facts.items() if name != "what"}
    if "expected" not in facts or facts["what"] == NO_TRITON:
        raise MachineError(facts["what"], **rest)
    return CompileError(facts["what"], **rest)
