"""What the suite can show without a GPU: kernels that compile and, interpreted, are right.

One process either compiles or interprets, by ``TRITON_INTERPRET``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import torch

from graphopt.codegen.triton.interpreter import SWITCH

from .ahead import Made, compile_all, faults_of, jobs_of, made_kernel
from .bench import Bench
from .case import Case
from .clock import HostClock
from .launch import Interpreted
from .record import grouped
from .table import console, correctness_table, resources_table


def is_interpreting() -> bool:
    """Whether kernels of this process are interpreted."""
    return os.environ.get(SWITCH) == "1"


def compile_dry(
    cases: Mapping[str, Case], arch: int, processes: int | None = None, *, tiny: bool = False
) -> int:
    """Cross-compile all kernels and check what they take; 1 if anything must not ship."""
    shown = console()
    if tiny:
        cases = {name: case for name, case in cases.items() if name.startswith("small/")}
    made = {name: made_kernel(case, arch) for name, case in cases.items()}
    kernels = [(cases[name], one.kernel) for name, one in made.items() if one.kernel is not None]
    jobs = jobs_of(kernels, arch)
    shown.print(f"{len(jobs)} launches to compile for sm_{arch}")
    reports = compile_all(jobs, processes)
    shown.print(resources_table(grouped(reports)))
    _tell_missing(made)
    faults = faults_of([kernel for _, kernel in kernels], reports)
    for fault in faults:
        for problem in fault.problems:
            shown.print(f"{fault.kernel}: {fault.launch}: {problem}", markup=False)
    failed = [name for name, one in made.items() if one.status == "failed"]
    shown.print(
        f"{len(kernels)} cases, {len(reports)} launches for sm_{arch}, "
        f"{len(faults)} that must not ship, {len(failed)} makers failed"
    )
    return 1 if faults or failed else 0


def interpret_dry(cases: Mapping[str, Case], rounds: int = 1) -> int:
    """Check the small cases in the interpreter, and time them with the host's clock; 1 if wrong."""
    bench = Bench(torch.device("cpu"), [Interpreted()], HostClock(), rounds, compiles_peers=False)
    small = {name: case for name, case in cases.items() if name.startswith("small/")}
    rows = {name: bench.run(case) for name, case in small.items()}
    console().print(correctness_table(rows))
    return 1 if any(row["status"] in ("wrong", "failed") for row in rows.values()) else 0


def _tell_missing(made: Mapping[str, Made]) -> None:
    shown = console()
    counts = Counter((one.status, one.reason) for one in made.values() if one.kernel is None)
    for (status, reason), count in counts.items():
        shown.print(f"{count} cases {status}: {reason}", markup=False)
