"""The small cases of every family, in the interpreter; the slowest of them in the full tier."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from benchmarks.gpu import worker
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.case import Case
from benchmarks.gpu.cases import small_cases
from benchmarks.gpu.clock import HostClock
from benchmarks.gpu.launch import Interpreted
from benchmarks.gpu.suite import run_suite
from benchmarks.gpu.worker import Job, named_cases, run_job

pytestmark = pytest.mark.interpreted
CPU = torch.device("cpu")


def marked(case: Case) -> Any:
    heavy = case.family in ("attention", "experts", "sampling") or "f32" in case.name
    return pytest.param(case, id=case.name, marks=[pytest.mark.full] if heavy else [])


@pytest.mark.parametrize("case", [marked(case) for case in small_cases()])
def test_it_is_right(case: Case) -> None:
    row = Bench(CPU, [Interpreted()], compiles_peers=False).run(case)
    assert row["status"] == "right", row


def test_a_job_checks_small_cases_and_times_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    one = named_cases()["small/rms_norm 3 x 96"]
    monkeypatch.setattr(worker, "named_cases", lambda: {"small/a": one, "real/a": one})
    lines: list[dict[str, Any]] = []
    job = Job(("small/a", "real/a"), ("interpreter",), 2, compiles_peers=False)
    run_job(job, CPU, HostClock(), lines.append)
    json.dumps(lines)
    rates, begin, small, _, real = lines
    assert rates["rates"]["bytes_per_second"] > 0
    assert begin == {"begin": "small/a"}
    assert small["row"]["status"] == real["row"]["status"] == "right"
    assert "times" not in small["row"]
    assert set(real["row"]["times"]) == {"graphopt", "torch"}


def test_no_case_begins_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    one = named_cases()["small/rms_norm 3 x 96"]
    monkeypatch.setattr(worker, "named_cases", lambda: {"small/a": one})
    lines: list[dict[str, Any]] = []
    run_job(Job(("small/a",), ("interpreter",), until=0.0), CPU, HostClock(), lines.append)
    assert lines[-1]["row"]["status"] == "left out"


def test_a_suite_in_processes_of_its_own() -> None:
    names = ("small/rms_norm 3 x 96", "small/silu*up 3 x 96")
    found = run_suite(Job(names, ("interpreter",)), start_patience=300.0)
    assert {name: row["status"] for name, row in found.rows.items()} == dict.fromkeys(
        names, "right"
    )
    assert not found.restarts
