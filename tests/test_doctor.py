"""The doctor reads what systems say about themselves, and says what follows."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest

from graphopt import doctor
from graphopt.doctor import (
    Finding,
    Requirement,
    Status,
    cpu_facts,
    cpu_quota,
    default_probes,
    examine,
    look_at_package,
    memory_limit,
    probe_cache,
    probe_compiler,
    probe_cores,
    probe_cpu,
    probe_disk,
    probe_gpu,
    probe_memory,
    probe_packages,
    probe_pages,
    probe_python,
    read_bandwidth,
    read_both,
    requirements,
)

AVX512 = "avx2 fma avx512f avx512bw avx512dq avx512vl avx512_bf16 avx512_vnni"


def executable(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_this_machine() -> None:
    findings = {finding.name: finding for finding in examine(default_probes(measure=False))}
    assert not [finding for finding in findings.values() if finding.blocks]
    assert {"graphopt", "python", "torch", "CPU", "cores", "memory", "disk", "cache"} <= set(
        findings
    )
    assert findings["torch"].found == metadata.version("torch")


def test_a_probe_that_fails_is_a_finding() -> None:
    def fails() -> Iterable[Finding]:
        raise PermissionError("not for you")

    fine = Finding("fine", Status.OK, "yes")
    found = examine([("broken", fails), ("fine", lambda: [fine])])
    assert found[0].status is Status.WARN
    assert "PermissionError: not for you" in found[0].found
    assert found[1] == fine


@pytest.mark.parametrize(
    ("status", "required", "blocks"),
    [
        (Status.MISSING, True, True),
        (Status.MISSING, False, False),
        (Status.WARN, True, False),
        (Status.OK, True, False),
    ],
)
def test_only_what_is_required_and_missing_blocks(
    status: Status, required: bool, blocks: bool
) -> None:
    assert Finding("x", status, "", required=required).blocks is blocks


def test_python() -> None:
    assert probe_python((3, 11, 0))[0].status is Status.OK
    assert probe_python((4, 0, 0))[0].status is Status.OK
    assert probe_python((3, 10, 14))[0].blocks


def test_requirements() -> None:
    found = requirements(
        [
            "torch>=2.11",
            "huggingface-hub >= 1.0",
            "uvicorn[standard]>=0.3",
            "plain",
            'triton>=3.6; platform_system == "Linux" and extra == "cuda"',
            "tiktoken>=0.9; extra == 'slow-tokenizers'",
            'pytest>=8; extra == "dev"',
        ]
    )
    assert found == [
        Requirement("torch", "2.11", ""),
        Requirement("huggingface-hub", "1.0", ""),
        Requirement("uvicorn", "0.3", ""),
        Requirement("plain", "0", ""),
        Requirement("triton", "3.6", "cuda"),
        Requirement("tiktoken", "0.9", "slow-tokenizers"),
    ]


def test_packages() -> None:
    numpy = metadata.version("numpy")
    assert look_at_package(Requirement("numpy", "1.0", "")) == Finding("numpy", Status.OK, numpy)
    old = look_at_package(Requirement("numpy", "999.1", ""))
    assert old.blocks
    assert "999.1" in old.means
    absent = look_at_package(Requirement("no-such-package", "1", ""))
    assert absent.blocks
    assert absent.todo == "pip install 'no-such-package>=1'"
    extra = look_at_package(Requirement("no-such-package", "1", "cuda"))
    assert not extra.blocks
    assert extra.todo == "pip install 'graphopt[cuda]'"


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    [found] = probe_packages()
    assert found.status is Status.WARN


@pytest.mark.parametrize(
    ("version", "asks", "build"),
    [
        ("2.13.0+cpu", ["nvidia-cublas"], "a build for the CPU"),
        ("2.13.0+cu130", [], "a build for NVIDIA GPUs"),
        ("2.13.0", ["nvidia-cublas>=1; platform_system == 'Linux'"], "a build for NVIDIA GPUs"),
        ("2.13.0", ["sympy"], "a build for the CPU"),
    ],
)
def test_torch_build(
    monkeypatch: pytest.MonkeyPatch, version: str, asks: list[str], build: str
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: asks)
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert look_at_package(Requirement("torch", "2.11", "")).means == build


def test_no_compiler() -> None:
    [found] = probe_compiler(["no-such-compiler", "nor-this-one"])
    assert found.status is Status.MISSING
    assert not found.blocks
    assert "no-such-compiler, nor-this-one" in found.found


def test_a_compiler_that_fails(tmp_path: Path) -> None:
    program = executable(
        tmp_path / "c++", 'test "$1" = --version && echo "c 1" && exit\necho no omp.h >&2; exit 1'
    )
    [found] = probe_compiler([program])
    assert (found.status, found.found) == (Status.WARN, "c 1")
    assert "no omp.h" in found.means


def test_a_compiler_whose_programs_do_not_run(tmp_path: Path) -> None:
    text = 'while test "$1" != -o; do shift; done; printf "#!/bin/sh\\nexit 3" > $2; chmod +x $2'
    program = executable(tmp_path / "c++", f'test "$1" = --version && echo "c 1" && exit\n{text}')
    [found] = probe_compiler([program])
    assert found.status is Status.WARN
    assert "exit code 3" in found.means


def test_a_compiler_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        'while test "$1" != -o; do shift; done; '
        'printf "#!/bin/sh\\nprintf \\"4 201511\\"" > $2; chmod +x $2'
    )
    program = executable(tmp_path / "c++", f'test "$1" = --version && echo "c 1" && exit\n{text}')
    monkeypatch.setenv("CXX", program)
    compiler, openmp = probe_compiler()
    assert compiler == Finding("C++ compiler", Status.OK, "c 1")
    assert openmp.found == "4 threads, version 201511"


def test_cpu_facts() -> None:
    text = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2\n\nmodel name : Other\n"
    assert cpu_facts(text) == ("Some CPU", frozenset({"fpu", "avx2"}))
    assert cpu_facts("Features : asimd bf16\n") == ("", frozenset({"asimd", "bf16"}))
    assert cpu_facts("") == ("", frozenset())


@pytest.mark.parametrize(
    ("machine", "flags", "target", "status"),
    [
        ("x86_64", AVX512, "cpu:avx512", Status.OK),
        ("x86_64", "avx2 fma avx512f", "cpu:avx2", Status.OK),
        ("x86_64", "sse2", "cpu:portable", Status.WARN),
        ("aarch64", "asimd bf16", "cpu:portable", Status.OK),
    ],
)
def test_instruction_sets(
    tmp_path: Path, machine: str, flags: str, target: str, status: Status
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"model name : A CPU\nflags : {flags}\n")
    name, sets = probe_cpu(file, machine)
    assert name.found == f"A CPU ({machine})"
    assert target in sets.means
    assert sets.status is status


def test_a_cpu_that_says_nothing(tmp_path: Path) -> None:
    name, sets = probe_cpu(tmp_path / "absent", "riscv64")
    assert "riscv64" in name.found
    assert sets.found == "none that is known"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
    ],
)
def test_cpu_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(fill(tmp_path, files)) == quota


def test_cores_of_a_container(tmp_path: Path) -> None:
    [found] = probe_cores(fill(tmp_path, {"cpu.max": "50000 100000\n"}))
    assert found.status is Status.WARN
    assert found.found.startswith("0.5 usable")
    assert "the container may use 0.5" in found.means


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"memory.max": "max\n", "memory.current": "5\n"}, None),
        ({"memory.max": "1000\n", "memory.current": "400\n"}, (1000, 400)),
        (
            {"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "1"},
            (1000, 1),
        ),
        (
            {
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "1",
            },
            None,
        ),
    ],
)
def test_memory_limit(tmp_path: Path, files: dict[str, str], limit: tuple[int, int] | None) -> None:
    assert memory_limit(fill(tmp_path, files)) == limit


def test_memory_of_a_container(tmp_path: Path) -> None:
    files = {"memory.max": str(1 << 29), "memory.current": str(1 << 28)}
    [found] = probe_memory(fill(tmp_path, files))
    assert found.status is Status.WARN
    assert found.found == "0.2 GiB free of 0.5 GiB"
    assert found.means.startswith("the container's limit; holds about 0.1 B parameters")


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = probe_disk(tmp_path / "not" / "yet" / "there")
    assert str(tmp_path) in found.found
    monkeypatch.setattr(doctor, "FEW_DISK_BYTES", 1 << 62)
    [found] = probe_disk(tmp_path)
    assert found.status is Status.WARN


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [found] = probe_cache(tmp_path / "cache")
    assert found.status is Status.OK
    assert "0 artifacts" in found.found
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    [found] = probe_cache(tmp_path / "cache")
    assert found.status is Status.WARN


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "NVIDIA H200, 9.0, 143771, 580.1\nNVIDIA L4, 8.9, 23034, 580.1"
    smi = executable(tmp_path / "smi", f'echo "{rows}"')
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cu130")
    found = probe_gpu([smi], tmp_path / "absent")
    assert [row.status for row in found] == [Status.OK, Status.OK]
    assert found[0].found == "NVIDIA H200, sm_90, 140 GiB, driver 580.1"
    assert "sm_89" in found[1].found
    monkeypatch.setattr(metadata, "version", lambda name: "2.13.0+cpu")
    assert probe_gpu([smi], tmp_path / "absent")[0].status is Status.WARN


def test_no_gpu(tmp_path: Path) -> None:
    [found] = probe_gpu(["no-such-smi"], tmp_path / "absent")
    assert (found.status, found.blocks) == (Status.MISSING, False)
    failing = executable(tmp_path / "smi", "echo broken; exit 9")
    assert probe_gpu([failing], tmp_path / "absent")[0].status is Status.MISSING


def test_a_gpu_driver_that_does_not_answer(tmp_path: Path) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: 580.1\nGCC version: 12\n")
    [found] = probe_gpu(["no-such-smi"], driver)
    assert found.status is Status.WARN
    assert found.found == "a driver is loaded: NVRM version: 580.1"


def test_bandwidth_is_plausible() -> None:
    assert 1e8 < read_bandwidth(1 << 20, 1) < 1e13
    [(name, probe)] = [row for row in default_probes() if row[0] == "memory bandwidth"]
    [found] = probe()
    assert found.name == name
    assert "GB/s" in found.found


def test_pages_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, copied = read_both(tmp_path, 8 << 20, 2)
    assert 1e8 < mapped < 1e13
    assert 1e8 < copied < 1e13
    assert list(tmp_path.iterdir()) == []

    def rates(folder: Path, nbytes: int, threads: int) -> tuple[float, float]:
        assert folder == tmp_path
        assert nbytes <= doctor.PAGES_BYTES
        return 20e9, 20e9 * gain

    monkeypatch.setattr(doctor, "read_both", rates)
    gain = 1.01
    (row,) = probe_pages(tmp_path)
    assert row.found == "20.0 GB/s from a file's pages, 20.2 GB/s from a copy"
    assert row.means == "a copy of the weights does not pay"
    gain = 1.25
    (row,) = probe_pages(tmp_path)
    assert "--weights copy decodes up to 25% faster" in row.means
