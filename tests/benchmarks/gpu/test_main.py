"""A run on a device, without one: what is compiled, run and written, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.ahead import Report, title
from benchmarks.gpu.rates import Rates
from benchmarks.gpu.record import Record
from benchmarks.gpu.suite import Found
from benchmarks.gpu.worker import Job


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    assert "--dry-run" in capsys.readouterr().err


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    seen: dict[str, Any] = {"status": "right", "problems": ()}

    def suite(job: Job, told: Any) -> Found:
        seen["job"] = job
        found = Found(rates=Rates(4e12, 8e14))
        for name in job.names:
            row = {"status": seen["status"], "family": "row", "name": name}
            found.rows[name] = row
            told(name, row)
        return found

    def compile_all(jobs: Any, processes: int | None) -> list[Report]:
        seen["jobs"] = jobs
        return [
            Report(k.name, title(one), {"registers": 3}, seen["problems"]) for k, one, _ in jobs
        ]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command, "gpu_machine", lambda device: {"gpu": "NVIDIA H200"})
    monkeypatch.setattr(command, "gpu_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(command, "architecture", lambda device: 90)
    monkeypatch.setattr(command, "clocks", dict)
    monkeypatch.setattr(command, "run_suite", suite)
    monkeypatch.setattr(command, "compile_all", compile_all)
    return seen


def test_correctness(faked: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.json"
    arguments = ["--suite", "correctness", "--only", "rms_norm", "--jit", "--out", str(out)]
    assert command.main(arguments) == 0
    job = faked["job"]
    assert job.launchers == ("jit",)
    assert job.names
    assert all(name.startswith("small/") and "rms_norm" in name for name in job.names)
    assert faked["jobs"]
    found = json.loads(out.read_text())
    assert list(found["rows"]) == list(job.names)
    assert found["machine"] == {"gpu": "NVIDIA H200"}
    kernel, launch, _ = faked["jobs"][0]
    row = {"launch": title(launch), "registers": 3, "problems": []}
    assert row in found["resources"][kernel.name]
    assert found["rates"]["flops_per_second"] == 8e14


def test_results_have_a_place_of_their_own(
    faked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "_compiled", lambda *_: ([], []))
    assert command.main(["--no-compiled-peers"]) == 0
    assert (tmp_path / "nvidia_h200" / "kernels.json").is_file()
    assert faked["job"].launchers == ("cubin", "jit")
    assert not faked["job"].compiles_peers
    assert any(name.startswith("real/") for name in faked["job"].names)


def test_a_fault_is_an_exit_status(faked: dict[str, Any]) -> None:
    faked["status"] = "wrong"
    assert command.main(["--suite", "correctness", "--only", "rms_norm 3"]) == 1
    faked |= {"status": "right", "problems": ("it spills",)}
    assert command.main(["--suite", "correctness", "--only", "rms_norm 3"]) == 1


def test_what_is_cut_short_is_written(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    record = Record(path, {"machine": {}})
    record.add("a", {"status": "right"})
    assert json.loads(path.read_text())["rows"] == {"a": {"status": "right"}}
    record.add("b", {"status": "right"})  # soon after the first
    assert "b" not in path.read_text()
    record.write(rates=None)
    assert "b" in json.loads(path.read_text())["rows"]
    assert [one.name for one in tmp_path.iterdir()] == ["kernels.json"]
