"""What an artifact says of its kernels, and errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graphopt.artifact_files import KernelFiles, load_json, load_text
from graphopt.errors import ArtifactError
from graphopt.launch import LaunchKernel
from tests.test_launch import KERNEL


def opened(folder: Path, files: dict[str, bytes]) -> KernelFiles:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return KernelFiles(folder, {"files": {name: {} for name in files}})


def gpu_files(**changes: Any) -> dict[str, bytes]:
    launch = json.dumps({**KERNEL.to_json(), **changes}).encode()
    cubins = {f"kernels/norm/sm_90/{place}.cubin": b"\x7fELF%d" % place for place in range(3)}
    return {
        "kernels/norm/kernel.py": b"# norm\n",
        "kernels/norm/sm_90/launch.json": launch,
    } | cubins


def test_kernels_for_cpus(tmp_path: Path) -> None:
    files = {
        "plan.json": b"",
        "kernels/avx2.so": b"",
        "kernels/source/add.cpp": b"// add\n",
        "kernels/source/notes.txt": b"",
    }
    found = opened(tmp_path, files)
    assert found.kernels == {"avx2": tmp_path / "kernels/avx2.so"}
    assert found.kernel_names == ("add",)
    assert found.kernel_source("add") == "// add\n"
    assert found.launch_archs == {}
    with pytest.raises(ArtifactError, match="no kernel norm") as caught:
        found.kernel_source("norm")
    assert caught.value.expected == "add"
    with pytest.raises(ArtifactError, match="no kernel add for a GPU"):
        found.launch("add")


def test_kernels_for_a_gpu(tmp_path: Path) -> None:
    found = opened(tmp_path, gpu_files())
    assert found.kernels == {}
    assert found.kernel_names == ("norm",)
    assert found.kernel_source("norm") == "# norm\n"
    assert found.launch_archs == {"norm": "sm_90"}
    assert found.launch("norm") == KERNEL
    assert isinstance(found.launch("norm"), LaunchKernel)
    assert found.cubin("norm", "1.cubin") == b"\x7fELF1"


def test_a_cubin_that_is_missing_is_named(tmp_path: Path) -> None:
    files = gpu_files()
    del files["kernels/norm/sm_90/1.cubin"]
    with pytest.raises(ArtifactError, match="damaged") as caught:
        opened(tmp_path, files).launch("norm")
    assert caught.value.got == "it names 1.cubin, which is missing"


def test_launches_that_are_no_launches(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="another schema"):
        opened(tmp_path, gpu_files(schema=9)).launch("norm")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xff\xfe")
    (tmp_path / "data").write_bytes(b"{")
    with pytest.raises(ArtifactError, match="damaged: text"):
        load_text(tmp_path, "text")
    with pytest.raises(ArtifactError, match="damaged: data"):
        load_json(tmp_path, "data")
    with pytest.raises(ArtifactError, match="cannot be read: none"):
        load_text(tmp_path, "none")
