"""The whole suite: cases in processes of their own, so that one that crashes or hangs costs itself.

A process runs case after case. When it dies, or says nothing for too long, the case that it had
begun is the one at fault; a fresh process goes on after it.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .rates import Rates
from .worker import Job

# Seconds that one case may take; making a peer compile is the longest part of it.
PATIENCE = 120.0
# Seconds until a process has begun its first case: imports, a context, the rates.
START_PATIENCE = 180.0
# Fresh processes after one another that die before they begin a case.
_MOST_DEAD = 2
Told = Callable[[str, Mapping[str, Any]], None]


@dataclass(slots=True)
class Found:
    """What a suite has found so far.

    Attributes:
        rows: by case, with ``small/`` or ``real/`` before its name.
        rates: of the device, once they are measured.
        restarts: how many processes were lost.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    rates: Rates | None = None
    restarts: int = 0

    @property
    def faults(self) -> list[str]:
        """Cases that make the suite fail."""
        bad = ("wrong", "failed", "crashed", "hung")
        return [name for name, row in self.rows.items() if row["status"] in bad]


def run_suite(
    job: Job,
    told: Told = lambda name, row: None,
    *,
    command: Sequence[str] = (sys.executable, "-m", "benchmarks.gpu.worker"),
    patience: float = PATIENCE,
    start_patience: float = START_PATIENCE,
) -> Found:
    """Run a job's cases, each process as far as it goes.

    Args:
        job: what is to be run.
        told: called with every row as it comes.
        command: what runs a job; its file follows.
        patience: seconds that one case may take.
        start_patience: seconds until the first case is begun.
    """
    found = Found()
    left = list(job.names)
    dead = 0
    while left:
        now = replace(job, names=tuple(left), rates=found.rates or job.rates)
        ended = _Process(now, command, found, told).follow(patience, start_patience)
        left = [name for name in left if name not in found.rows]
        if not left:
            break
        found.restarts += 1
        if ended.begun is not None:
            dead = 0
            row = {"status": ended.status, "reason": ended.reason}
            found.rows[ended.begun] = row
            told(ended.begun, row)
            left.remove(ended.begun)
        elif not ended.progressed:
            dead += 1
            if dead >= _MOST_DEAD:
                for name in left:
                    found.rows[name] = {"status": "failed", "reason": ended.reason}
                    told(name, found.rows[name])
                break
    return found


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a process ended: what it had begun, and whether it got anywhere."""

    begun: str | None
    status: str
    reason: str
    progressed: bool


class _Process:
    """One process that runs a job."""

    def __init__(self, job: Job, command: Sequence[str], found: Found, told: Told) -> None:
        self._job, self._command, self._found, self._told = job, command, found, told
        self._begun: str | None = None
        self._progressed = False

    def follow(self, patience: float, start_patience: float) -> _Ended:
        """Read its lines until it ends, or until it has said nothing for too long."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "job.json")
            path.write_text(self._job.to_json())
            with Path(folder, "errors").open("w+") as errors:
                process = subprocess.Popen(
                    [*self._command, str(path)], stdout=subprocess.PIPE, stderr=errors, text=True
                )
                try:
                    status = self._read(process, patience, start_patience)
                finally:
                    process.kill()
                    process.wait()
                errors.seek(0)
                reason = f"exit status {process.returncode}: {errors.read()[-1500:]}"
        if status == "hung":
            reason = f"nothing happened for {patience:.0f} seconds"
        return _Ended(self._begun, status, reason, self._progressed)

    def _read(self, process: subprocess.Popen[str], patience: float, start_patience: float) -> str:
        lines: queue.Queue[str | None] = queue.Queue()

        def pump() -> None:
            for line in process.stdout or ():
                lines.put(line)
            lines.put(None)

        threading.Thread(target=pump, daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=patience if self._progressed else start_patience)
            except queue.Empty:
                return "hung"
            if line is None:
                process.wait()
                return "crashed"
            self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        if "begin" in line:
            self._begun, self._progressed = line["begin"], True
        elif "rates" in line:
            rates = line["rates"]
            self._found.rates = Rates(**rates) if rates else self._found.rates
        else:
            name, self._progressed = line["name"], True
            self._begun = None
            self._found.rows[name] = line["row"]
            self._told(name, line["row"])


def deadline(minutes: float) -> float:
    """On the wall clock, so that processes share it."""
    return time.time() + 60 * minutes
