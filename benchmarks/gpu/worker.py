"""The process that runs cases: rows on standard output as they come, one JSON object a line.

    python -m benchmarks.gpu.worker JOB.json

A line ``{"begin": name}`` comes before a case and its row after it, so that whoever reads knows
which case a crash or a hang belongs to.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .bench import Bench, DeviceLostError, Row
from .case import AbsentError, Case
from .cases import real_cases, small_cases
from .clock import Clock, DeviceClock, HostClock
from .launch import Cubins, Interpreted, Jit, Launcher
from .machine import architecture
from .rates import Rates, measured_rates

LOST = 3  # exit status after which a fresh process has to go on
Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Job:
    """What one process is to do.

    Attributes:
        names: of cases, with ``small/`` or ``real/`` before them.
        launchers: by name, the one that counts first.
        rounds: samples of each contender.
        rates: of the device if they are known; measured if None.
        compiles_peers: see :class:`Bench`.
        all_variants: see :class:`Bench`.
        until: on the wall clock, in seconds; cases that are not begun by then are left out.
    """

    names: tuple[str, ...]
    launchers: tuple[str, ...] = ("cubin", "jit")
    rounds: int = 30
    rates: Rates | None = None
    compiles_peers: bool = True
    all_variants: bool = False
    until: float = float("inf")

    def to_json(self) -> str:
        """For a file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What ``to_json`` gave."""
        found = json.loads(text)
        rates = found["rates"]
        return cls(
            **{
                **found,
                "names": tuple(found["names"]),
                "launchers": tuple(found["launchers"]),
                "rates": Rates(**rates) if rates else None,
            }
        )


def named_cases() -> dict[str, Case]:
    """All cases, by kind and name."""
    found = {f"small/{case.name}": case for case in small_cases()}
    return found | {f"real/{case.name}": case for case in real_cases()}


def launchers_of(names: Sequence[str], device: torch.device) -> list[Launcher]:
    """The launchers that there are.

    Raises:
        AbsentError: there is none of them.
    """
    makers: dict[str, Callable[[], Launcher]] = {
        "interpreter": Interpreted,
        "jit": lambda: Jit(architecture(device)),
        "cubin": lambda: Cubins(architecture(device)),
    }
    found: list[Launcher] = []
    missing: list[str] = []
    for name in names:
        try:
            found.append(makers[name]())
        except AbsentError as error:
            missing.append(str(error))
    if not found:
        raise AbsentError("; ".join(missing))
    return found


def run_job(job: Job, device: torch.device, clock: Clock, emit: Emit) -> None:
    """Run a job's cases in order.

    Raises:
        DeviceLostError: the device does not answer any more; the row of it is emitted.
    """
    cases = named_cases()
    launchers = launchers_of(job.launchers, device)
    options = {"compiles_peers": job.compiles_peers, "all_variants": job.all_variants}
    check_only = Bench(device, launchers, None, job.rounds, **options)
    both = Bench(device, launchers, clock, job.rounds, **options)
    rates = job.rates
    if rates is None and any(name.startswith("real/") for name in job.names):
        rates = _rates(clock, device, job.rounds)
    emit({"rates": rates.as_json() if rates else None})
    for name in job.names:
        if time.time() > job.until:
            emit({"row": {"status": "left out", "reason": "no time was left"}, "name": name})
            continue
        emit({"begin": name})
        bench = both if name.startswith("real/") else check_only
        try:
            row: Row = bench.run(cases[name])
        except DeviceLostError as error:
            emit({"row": error.row, "name": name})
            raise
        emit({"row": row, "name": name})


def _rates(clock: Clock, device: torch.device, rounds: int) -> Rates:
    if device.type == "cuda":
        return measured_rates(clock, device, rounds)
    return measured_rates(clock, device, 2, copy_bytes=1 << 20, size=64)


def main(arguments: Sequence[str]) -> int:
    """Run the job in a file; see the module's docstring."""
    job = Job.from_json(Path(arguments[0]).read_text())
    is_device = torch.cuda.is_available() and "interpreter" not in job.launchers
    device = torch.device("cuda" if is_device else "cpu")
    clock: Clock = DeviceClock(device) if is_device else HostClock()
    # Whatever libraries print goes to standard error; lines of rows are alone on standard output.
    rows = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(one: dict[str, Any]) -> None:
        rows.write(json.dumps(one) + "\n")

    try:
        run_job(job, device, clock, emit)
    except DeviceLostError:
        rows.flush()
        os._exit(LOST)  # a context that is lost may hang when it is torn down
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
