"""What is read off the machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.setup import machine


def script(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_this_machine() -> None:
    found = machine.look(Path(__file__).parent)
    assert found.cores >= 1
    assert found.free_disk_bytes > 0
    assert found.free_memory_bytes is None or found.free_memory_bytes > 0
    assert f"{found.cores} cores" in str(found)


def test_a_gpu_is_seen_by_its_driver_or_by_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    driver = tmp_path / "version"
    assert not machine.has_gpu(driver)
    script(tmp_path / "bin", "nvidia-smi", "exit 9  # installed, but no driver answers")
    assert not machine.has_gpu(driver)
    script(tmp_path / "bin", "nvidia-smi", "echo GPU 0")
    assert machine.has_gpu(driver)
    (tmp_path / "bin" / "nvidia-smi").unlink()
    driver.write_text("NVRM")
    assert machine.has_gpu(driver)


def test_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert machine.compiler() is None
    script(tmp_path, "clang++", "echo clang version 17")
    assert machine.compiler() == "clang version 17"
    script(tmp_path, "c++", "echo g++ 12.2; echo Copyright")
    assert machine.compiler() == "g++ 12.2"
    script(tmp_path, "mine", "echo $1 14")
    monkeypatch.setenv("CXX", "mine -Wall")
    assert machine.compiler() == "-Wall 14"
    monkeypatch.setenv("CXX", "missing")
    assert machine.compiler() is None


def test_memory_is_what_the_tightest_limit_leaves(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:    4000 kB\n")
    limit = tmp_path / "memory.max"
    assert machine.free_memory(meminfo, (limit,)) == 4000 * 1024
    limit.write_text("max\n")
    assert machine.free_memory(meminfo, (limit,)) == 4000 * 1024
    limit.write_text("1000000\n")
    assert machine.free_memory(meminfo, (limit,)) == 1_000_000
    limit.write_text("9223372036854771712\n")
    assert machine.free_memory(meminfo, (limit,)) == 4000 * 1024


def test_unknown_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.free_memory(tmp_path / "none", ()) is None
    script(tmp_path, "sysctl", "echo 17179869184")
    assert machine.free_memory(tmp_path / "none", ()) == 17179869184


def test_free_disk_is_that_of_the_checkout(tmp_path: Path) -> None:
    found = machine.look(tmp_path).free_disk_bytes
    assert abs(found - shutil.disk_usage(tmp_path).free) < 1_000_000_000
