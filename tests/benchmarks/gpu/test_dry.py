"""The dry run: every kernel compiles for a GPU that is not here, and takes no more than it has."""

from __future__ import annotations

import os

import pytest

from benchmarks.gpu.__main__ import main, options_of, selected
from benchmarks.gpu.ahead import Made, compile_all, jobs_of, made_kernel, title
from benchmarks.gpu.case import Case
from benchmarks.gpu.cases import real_cases, small_cases
from benchmarks.gpu.cases_rows import norm
from graphopt.codegen.triton.buckets import buckets_of
from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.ir.dtype import DType


@pytest.mark.slow
def test_a_few_kernels_compile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--tiny", "--only", "rms_norm 3 x 96", "--processes", "1"]) == 0
    assert "for sm_90, 0 with problems, 0 makers failed" in capsys.readouterr().out


def test_two_processes_compile_what_one_does() -> None:
    cases = [norm(3, 64), norm(3, 96)]
    kernels = [(case, made_kernel(case, 90).kernel) for case in cases]
    jobs = jobs_of(((case, kernel) for case, kernel in kernels if kernel is not None), 90)
    assert len(jobs) >= 2
    assert compile_all(jobs, 2) == compile_all(jobs, 0)


def test_what_does_not_compile_is_told() -> None:
    text = "import triton\n\n\n@triton.jit\ndef KERNEL_NAME(x_ptr, T):\n    nothing(x_ptr)\n"
    kernel = named_kernel("bad", text, (DType.F32,), ("T",), [Variant("KERNEL_NAME")])
    (report,) = compile_all([(kernel, kernel.variants[0], 90)], 0)
    assert "nothing" in report.problems[0]


@pytest.mark.slow
def test_a_compiler_that_dies_costs_one_job() -> None:
    head = "import os\nimport triton\nimport triton.language as tl\n\n\n"
    body = "@triton.jit\ndef KERNEL_NAME(x_ptr, T):\n    tl.store(x_ptr + T, 1.0)\n"
    once = 'if os.environ.get("LANE_DIES") == "yes":\n    os._exit(1)\n\n\n'
    variants = [Variant("KERNEL_NAME")]
    right, dead = (
        named_kernel(name, text, (DType.F32,), ("T",), variants)
        for name, text in (("right", head + body), ("dead", head + once + body))
    )
    os.environ["LANE_DIES"] = "yes"
    try:
        found = compile_all([(one, one.variants[0], 90) for one in (right, dead, right)], 1)
    finally:
        del os.environ["LANE_DIES"]
    assert [report.problems for report in found] == [(), ("its compiler died",), ()]


def test_a_maker_that_fails_is_told() -> None:
    def broken(arch: int) -> TritonKernel:
        raise ZeroDivisionError(f"for {arch}")

    case = Case("one", "row", {}, broken, lambda device, seed: pytest.fail("not asked for"))
    assert made_kernel(case, 80) == Made(None, "failed", "ZeroDivisionError: for 80")


def test_selected_cases() -> None:
    names = list(selected(options_of(["--only", "router"])))
    assert names
    assert all("router" in name for name in names)


@pytest.mark.full
@pytest.mark.parametrize("case", [*small_cases(), *real_cases()], ids=lambda case: case.name)
def test_every_kernel_may_ship(case: Case) -> None:
    made = made_kernel(case, 90)
    assert made.kernel is not None, made.reason
    reports = compile_all(jobs_of([(case, made.kernel)], 90), 1)  # it may die
    flaws = {report.launch: report.problems for report in reports}
    for bucket in buckets_of(made.kernel.variants):  # of alternatives one has to be sound
        launches = [[title(launch) for launch in one.launches] for one in bucket.candidates]
        compiled = [names for names in launches if flaws.keys() >= set(names)]
        assert not compiled or any(not any(map(flaws.get, names)) for names in compiled), flaws
