"""Cases have names of their own, rules for all operands, and a job survives JSON."""

from __future__ import annotations

import torch

from benchmarks.gpu.bench import is_fatal
from benchmarks.gpu.cases import chosen, families, real_cases, small_cases
from benchmarks.gpu.machine import architecture, folder_name, gpu_machine
from benchmarks.gpu.rates import Rates
from benchmarks.gpu.table import correctness_table, times_table
from benchmarks.gpu.worker import Job, named_cases
from graphopt.codegen.triton.makers import MAKERS

CPU = torch.device("cpu")


def test_names_are_unique() -> None:
    assert len(named_cases()) == len(small_cases()) + len(real_cases())


def test_every_family_has_small_and_real_cases() -> None:
    # What only views rows has none of its own, nor what no family covers.
    wanted = {*MAKERS, "quantized", "fp8", "sampling"} - {"view", "opaque"}
    assert wanted == {*families()} == {case.family for case in real_cases()}
    for case in real_cases():
        assert case.nbytes > 0, case.name


def test_operands_and_expected_results_of_small_cases() -> None:
    for case in small_cases():
        work = case.work(CPU, 1)
        assert [want.shape for want in work.expected()] == [r.tensor.shape for r in work.results]


def test_only() -> None:
    assert {case.family for case in chosen(small_cases(), "attention")} == {"attention"}
    assert chosen(small_cases(), "") == small_cases() or len(chosen(small_cases(), ""))
    assert {case.name for case in chosen(real_cases(), "8192 x 8192 x 8192")} == {
        "linear 8192 x 8192 x 8192",
        "linear+residual 8192 x 8192 x 8192",
    }


def test_jobs_survive_json() -> None:
    job = Job(("small/a", "real/b"), ("jit",), 7, Rates(1.0, 2.0), until=12.5)
    assert Job.from_json(job.to_json()) == job
    assert Job.from_json(Job(()).to_json()) == Job(())


def test_machine() -> None:
    assert folder_name("NVIDIA H200") == "nvidia_h200"
    assert architecture(CPU) == 90
    assert gpu_machine(CPU)["gpu"] == "no GPU"


def test_errors_after_which_a_device_is_lost() -> None:
    assert is_fatal(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert is_fatal(RuntimeError("got CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access"))
    assert not is_fatal(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_fatal(ValueError("no such shape"))


def test_tables_show_every_row() -> None:
    timing = {"median_us": 10.0, "spread": 0.1}
    right = {
        "name": "a",
        "family": "row",
        "status": "right",
        "error": 1e-3,
        "bytes": 1e6,
        "flops": 1e6,
        "times": {"graphopt": timing, "torch": {"median_us": 20.0}},
        "peers": {"torch": {"status": "right"}, "Liger": {"status": "absent"}},
    }
    wrong = {"name": "b", "family": "row", "status": "wrong", "reason": "y[0] is off"}
    rows = {"real/a": right, "real/b": wrong, "real/c": {"status": "crashed", "reason": "3"}}
    assert correctness_table(rows).row_count == 2
    assert times_table(rows, Rates(1e12, 1e15)).row_count == 3
