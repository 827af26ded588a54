"""Each check refuses at its bound and not above it, and its paragraph holds the numbers."""

from __future__ import annotations

from dataclasses import replace

from tools.setup import checks
from tools.setup.machine import Machine

GOOD = Machine("Linux", False, 2, 10**11, 10**10, "g++ 12")


def test_system() -> None:
    assert checks.check_system(GOOD) is None
    assert checks.check_system(replace(GOOD, system="Darwin")) is None
    problem = checks.check_system(replace(GOOD, system="Windows"))
    assert problem is not None
    assert "Subsystem for Linux" in str(problem)


def test_disk_counts_what_is_there_already() -> None:
    need = checks.CPU_DISK_BYTES
    tight = replace(GOOD, free_disk_bytes=need - 1)
    assert checks.check_disk(replace(GOOD, free_disk_bytes=need), need, 0) is None
    assert checks.check_disk(tight, need, 1) is None
    problem = checks.check_disk(tight, need, 0)
    assert problem is not None
    assert "2.5 GB free" in str(problem)
    assert "expected 2.5 GB" in str(problem)
    assert checks.check_disk(GOOD, checks.CUDA_DISK_BYTES, 0) is None


def test_memory() -> None:
    need = checks.MEMORY_BYTES
    assert checks.check_memory(replace(GOOD, free_memory_bytes=need)) is None
    assert checks.check_memory(replace(GOOD, free_memory_bytes=None)) is None
    problem = checks.check_memory(replace(GOOD, free_memory_bytes=need - 1))
    assert problem is not None
    assert "too little memory" in str(problem)


def test_a_missing_compiler_says_what_it_limits() -> None:
    assert checks.check_compiler(GOOD) is None
    problem = checks.check_compiler(replace(GOOD, compiler=None))
    assert problem is not None
    assert "C++ kernels cannot be compiled" in problem.what
    assert "apt install g++" in problem.next
