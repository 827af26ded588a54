"""The kernels of an artifact are listed with what uses them, and their sources are printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from graphopt.artifact import read_artifact, write_artifact
from graphopt.artifact_files import KERNEL_SOURCES
from graphopt.cli.kernels import kernel_rows, kernels_json, launch_rows
from graphopt.errors import ArtifactError
from graphopt.ir.shape import parse_dim
from graphopt.plan import CPP, TRITON, Piece, Step
from tests.test_artifact import contents
from tests.test_artifact_files import gpu_files
from tests.test_launch import KERNEL

Run = Callable[..., Result]
NORM = Step(CPP, "norm_1", (0,), (0,), (1,), (), "layers.0", "rms_norm", parse_dim("2*T"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two layers share a kernel, PyTorch runs a step between them."""
    made = contents()
    torch = made.plan.pieces[0]
    native = [
        Piece(name, (replace(NORM, scope=scope),), True, "because", "b0")
        for name, scope in (("p8", "layers.0"), ("p9", "layers.1"))
    ]
    sources = {"sampler": "// samples\n", "norm_1": "// one\n// two\n", "piece_b0": "// a piece\n"}
    files = {f"{KERNEL_SOURCES}/{name}.cpp": text.encode() for name, text in sources.items()}
    plan = replace(made.plan, pieces=(native[0], torch, native[1]))
    write_artifact(tmp_path / "model.gopt", replace(made, plan=plan, extra_files=files))
    return tmp_path / "model.gopt"


def test_a_row_for_each_source(path: Path) -> None:
    found = kernels_json(read_artifact(path))
    assert [row["kernel"] for row in found] == ["norm_1", "sampler", "piece_b0"]
    assert found[0] == {
        "kernel": "norm_1",
        "computes": "rms_norm",
        "scopes": ["layers.0", "layers.1"],
        "steps": 2,
        "lines": 2,
        "workspace": "2*T",
    }
    first, second, _ = kernel_rows(found)
    assert first == ("norm_1", "rms_norm", "layers.0", 2, 2, "2*T bytes")
    assert second == ("sampler", "", "", "", 1, "")


def test_list(run: Run, path: Path) -> None:
    lines = run("inspect", path, "--kernels").stdout.splitlines()
    assert lines[0].split() == [
        "kernel",
        "computes",
        "for",
        "example",
        "in",
        "steps",
        "lines",
        "workspace",
    ]
    assert lines[1].split()[:4] == ["norm_1", "rms_norm", "layers.0", "2"]
    found = json.loads(run("inspect", path, "--kernels", "--json").stdout)
    assert found == {"kernels": kernels_json(read_artifact(path))}


def test_source(run: Run, path: Path) -> None:
    assert run("inspect", path, "--kernel", "norm_1").stdout == "// one\n// two\n"
    found = json.loads(run("inspect", path, "--kernel", "norm_1", "--json").stdout)
    assert found == {"kernel": "// one\n// two\n"}


def test_a_wrong_name_lists_them_all(run: Run, path: Path) -> None:
    result = run("inspect", path, "--kernel", "norm_2")
    assert result.exit_code == ArtifactError.exit_code
    assert "no kernel norm_2" in result.stderr
    assert all(name in result.stderr for name in ("norm_1", "piece_b0", "sampler"))


@pytest.fixture
def for_a_gpu(tmp_path: Path) -> Path:
    made = contents()
    step = replace(NORM, backend=TRITON, kernel="norm", workspace=0)
    first, last = (Piece(name, (step,), True, "because", "b0") for name in ("p8", "p9"))
    pieces = (first, made.plan.pieces[0], last)
    plan = replace(made.plan, pieces=pieces, target="cuda:sm_90")
    files = gpu_files()
    write_artifact(tmp_path / "gpu.gopt", replace(made, plan=plan, extra_files=files))
    return tmp_path / "gpu.gopt"


def test_what_each_variant_takes_of_a_gpu(run: Run, for_a_gpu: Path) -> None:
    found = kernels_json(read_artifact(for_a_gpu))
    assert [row["kernel"] for row in found] == ["norm"]
    assert found[0]["launch"] == KERNEL.to_json()
    rows = launch_rows(found)
    first = ("norm_few", "P<=4 and T<=16", "BLOCK=64", 4, 3, 40, 0, 4096, 12, "")
    library = ("PyTorch", "P<=4 and T<=512", *[""] * 7, "faster on NVIDIA H200")
    last = ("norm_few", "any", *first[2:-1], "measured on NVIDIA H200")
    assert rows == [first, first, library, last]
    text = run("inspect", for_a_gpu, "--kernels").stdout
    assert "registers" in text
    assert "measured on NVIDIA H200" in text
    assert "PyTorch" in text
    assert launch_rows(kernels_json(read_artifact(for_a_gpu))[:0]) == []


def test_a_text_for_a_gpu_begins_with_what_it_takes(run: Run, for_a_gpu: Path) -> None:
    lines = run("inspect", for_a_gpu, "--kernel", "norm").stdout.splitlines()
    assert lines[-1] == "# norm"
    assert lines[0] == (
        "# sm_90, P<=4 and T<=16: norm_few, 128 threads of 40 registers, 4096 bytes shared, "
        "12 programs on a multiprocessor"
    )
    assert lines[2] == "# sm_90, P<=4 and T<=512: PyTorch, faster on NVIDIA H200"
    assert len(lines) == 5
    assert "1 for sm_90" in run("inspect", for_a_gpu).stdout
