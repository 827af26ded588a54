"""The settings all tests share: threads, workers, and the one skip there is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def workers(config: pytest.Config) -> int:
    return int(config.hook.pytest_xdist_auto_num_workers(config=config))


def test_a_worker_computes_with_one_thread() -> None:
    assert torch.get_num_threads() == 1


def test_workers_fit_the_cores_and_the_memory(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def machine(cores: int, gigabytes: float) -> None:
        memory = SimpleNamespace(available=int(gigabytes * 1e9))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(cores)))

    for cores, gigabytes, expected in ((2, 16, 2), (2, 0.5, 1), (4, 4, 2), (64, 500, 8), (1, 9, 1)):
        machine(cores, gigabytes)
        assert workers(pytestconfig) == expected


@pytest.mark.parametrize("has_gpu", [False, True])
def test_only_gpu_tests_are_skipped_and_only_without_one(has_gpu: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "torch.py").write_text(  # found before the real one, and quicker
        f"class cuda:\n    is_available = staticmethod(lambda: {has_gpu})\n"
    )
    (tmp_path / "test_two.py").write_text(
        "import pytest\n@pytest.mark.gpu\ndef test_device(): pass\ndef test_anywhere(): pass\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert ("2 passed" if has_gpu else "1 passed, 1 skipped") in done.stdout
    assert ("needs an NVIDIA GPU" in done.stdout) is not has_gpu


@pytest.mark.parametrize("interprets", [False, True])
def test_interpreted_tests_are_a_job_of_their_own(interprets: bool, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_two.py").write_text(
        "import pytest\n@pytest.mark.interpreted\ndef test_kernel(): pass\ndef test_other(): pass\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = interpreted\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_ADDOPTS": "", "TRITON_INTERPRET": str(int(interprets))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 deselected" in done.stdout
    assert ("test_kernel PASSED" in done.stdout) is interprets
