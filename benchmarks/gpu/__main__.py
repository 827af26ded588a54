"""Whether the kernels for a GPU are right, and how fast beside the machine and their peers.

    python -m benchmarks.gpu --suite kernels [--only NAME] [--jit] [--minutes 8] [--out FILE]
    python -m benchmarks.gpu --suite correctness      only whether they are right
    python -m benchmarks.gpu --suite e2e ...          whole models beside HF and vLLM, see e2e.py
    python -m benchmarks.gpu --dry-run [--only NAME]  no GPU: compile all, or, with
                                                      TRITON_INTERPRET=1, run the small cases

First every kernel is compiled in processes of their own, then all small cases are checked against
float64 PyTorch, then the real ones, each of which is timed if it is right: CUDA events, L2 flushed,
peers in turns. The exit status is 1 if any kernel is wrong, fails to compile, crashes or hangs.
Samples, versions, clocks and resources go to ``benchmarks/results/GPU/kernels.json``; a run of
--only some cases is shown, and written only with --out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import RESULTS

from . import e2e
from .ahead import Report, compile_all, faults_of, jobs_of, made_kernel
from .case import Case
from .cases import chosen
from .dry import compile_dry, interpret_dry, is_interpreting
from .machine import architecture, clocks, folder_name, gpu_machine, gpu_name
from .record import Record, grouped, rates_of
from .suite import Found, deadline, run_suite
from .table import console, correctness_table, resources_table, times_table
from .worker import Job, named_cases


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--suite", choices=("kernels", "correctness"), default="kernels")
    parser.add_argument("--only", default="", help="a family, or a part of cases' names")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--jit", action="store_true", help="Triton's own launcher alone")
    parser.add_argument("--rounds", type=int, default=30, help="samples of each contender")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it")
    parser.add_argument("--variants", action="store_true", help="time variants not chosen, too")
    parser.add_argument("--no-compiled-peers", action="store_true", help="no torch.compile")
    parser.add_argument("--processes", type=int, default=None, help="that compile; one a core")
    parser.add_argument("--dry-run", action="store_true", help="all that needs no GPU")
    parser.add_argument("--arch", type=int, default=90, help="of a dry run, such as 90")
    parser.add_argument("--tiny", action="store_true", help="of a dry run: small cases only")
    return parser.parse_args(arguments)


def selected(options: argparse.Namespace) -> dict[str, Case]:
    """The cases that are asked for: small ones first."""
    cases = named_cases()
    kept = {id(case) for case in chosen(list(cases.values()), options.only)}
    return {name: case for name, case in cases.items() if id(case) in kept}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; see the module's docstring."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:2] == ["--suite", "e2e"]:
        return e2e.main(words[2:])
    options = options_of(words)
    if options.dry_run:
        cases = selected(options)
        if is_interpreting():
            return interpret_dry(cases)
        return compile_dry(cases, options.arch, options.processes, tiny=options.tiny)
    if not torch.cuda.is_available():
        print("no GPU: --dry-run does what can be done without one", file=sys.stderr)
        return 2
    return _on_device(options)


def _on_device(options: argparse.Namespace) -> int:
    device, shown = torch.device("cuda"), console()
    started, until = time.time(), deadline(options.minutes)
    cases = selected(options)
    if options.suite == "correctness":
        cases = {name: case for name, case in cases.items() if name.startswith("small/")}
    path = options.out
    if path is None and not options.only and options.suite == "kernels":
        path = RESULTS / folder_name(gpu_name(device)) / "kernels.json"
    record = Record(path, {"machine": gpu_machine(device), "clocks": {"before": clocks()}})
    reports, faults = _compiled(cases, architecture(device), options.processes)
    record.write(resources=grouped(reports))
    shown.print(f"{len(reports)} launches compiled in {time.time() - started:.0f} s")

    def told(name: str, row: Mapping[str, Any]) -> None:
        record.add(name, row)
        median = row.get("times", {}).get("graphopt", {}).get("median_us")
        took = "" if median is None else f" {median:.1f} us"
        line = f"{time.time() - started:5.0f} s  {row['status']:<9} {name}{took}"
        shown.print(line, markup=False)

    job = Job(
        tuple(cases),
        ("jit",) if options.jit else ("cubin", "jit"),
        options.rounds,
        compiles_peers=not options.no_compiled_peers,
        all_variants=options.variants,
        until=until,
    )
    found = run_suite(job, told)
    record.write(rates=rates_of(found.rates), restarts=found.restarts, clocks_after=dict(clocks()))
    _show(shown, found, faults)
    if path is not None:
        shown.print(f"written to {path}", markup=False)
    return 1 if found.faults or faults else 0


def _compiled(
    cases: Mapping[str, Case], arch: int, processes: int | None
) -> tuple[list[Report], list[Report]]:
    """What everything takes, and of it what must not ship."""
    made = [(case, made_kernel(case, arch).kernel) for case in cases.values()]
    kernels = [(case, kernel) for case, kernel in made if kernel is not None]
    reports = compile_all(jobs_of(kernels, arch), processes)
    return reports, faults_of([kernel for _, kernel in kernels], reports)


def _show(shown: Any, found: Found, faults: Sequence[Report]) -> None:
    if faults:
        shown.print(resources_table(grouped(faults)))
    shown.print(correctness_table(found.rows))
    real = {name: row for name, row in found.rows.items() if name.startswith("real/")}
    if real and found.rates is not None:
        shown.print(times_table(real, found.rates))
    for name in found.faults:
        row = found.rows[name]
        shown.print(f"{name}: {row['status']}: {row.get('reason', '')}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
