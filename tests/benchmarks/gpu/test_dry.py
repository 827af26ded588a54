"""The dry run: every kernel compiles for a GPU that is not here, and takes no more than it has."""

from __future__ import annotations

import os

import pytest

from benchmarks.gpu.__main__ import main, options_of, selected
from benchmarks.gpu.ahead import (
    Made,
    Report,
    compile_all,
    faults_of,
    jobs_of,
    made_kernel,
    title,
)
from benchmarks.gpu.case import Case
from benchmarks.gpu.cases import real_cases, small_cases
from benchmarks.gpu.cases_rows import norm
from graphopt.codegen.triton.kernel import TritonKernel, Variant, named_kernel
from graphopt.ir.dtype import DType


@pytest.mark.slow
def test_a_few_kernels_compile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--tiny", "--only", "rms_norm 3 x 96", "--processes", "1"]) == 0
    assert "for sm_90, 0 that must not ship, 0 makers failed" in capsys.readouterr().out


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


def test_of_alternatives_one_has_to_be_sound() -> None:
    few, other = Variant("few", below={"T": 16}), Variant("other", below={"T": 16})
    first = Variant("first", then=(Variant("second"),))
    kernel = named_kernel("some", "pass\n", (DType.F32,), ("T",), [few, other, first])

    def report(variant: Variant, *problems: str) -> Report:
        return Report(kernel.name, title(variant), {}, problems)

    sound = [report(one) for one in (few, other, *first.launches)]
    flawed = [report(one, "it spills") for one in (few, other, *first.launches)]
    assert faults_of([kernel], sound) == []
    assert faults_of([kernel], [flawed[0], *sound[1:]]) == []
    assert faults_of([kernel], [*flawed[:2], *sound[2:]]) == flawed[:2]
    assert faults_of([kernel], [*sound[:3], flawed[3]]) == [flawed[3]]
    # The other alternative, and what follows the first launch, are not for these sizes.
    assert faults_of([kernel], [flawed[0], flawed[2]]) == [flawed[0]]
    assert faults_of([], flawed) == []


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
    assert faults_of([made.kernel], reports) == []
