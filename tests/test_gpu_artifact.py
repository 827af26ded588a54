"""A checkpoint compiled for a GPU, on a machine without one."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import pytest

import graphopt
from graphopt import api
from graphopt.artifact import Artifact
from graphopt.cli.kernels import kernels_json, launch_rows
from graphopt.codegen.triton import ahead
from graphopt.errors import ArtifactError, MachineError
from graphopt.loop_kernels import LOOP_KERNELS
from graphopt.plan import TRITON
from graphopt.report.source import source_of
from tests.checkpoints import save_tiny

pytestmark = pytest.mark.full  # tens of variants are compiled


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(home / "cache"))


@pytest.fixture(scope="module")
def checkpoint(home: Path) -> Path:
    return save_tiny(home / "tiny", num_hidden_layers=2)


@pytest.fixture(scope="module")
def artifact(home: Path, checkpoint: Path) -> Artifact:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHOPT_CACHE", str(home / "cache"))
        return api.compile_checkpoint(
            checkpoint, home / "tiny.gopt", target="cuda:sm_90", dtype="bfloat16"
        )


def test_every_step_has_a_kernel(artifact: Artifact) -> None:
    assert artifact.plan.target == "cuda:sm_90"
    assert artifact.plan.backends() == {TRITON}
    entries = [one for one in artifact.ledger().entries if one.rule == "backend:triton"]
    assert len(entries) == sum(1 for _ in artifact.plan.steps()) + len(LOOP_KERNELS)
    assert all(one.applied and one.reason.startswith("sm_90: ") for one in entries)
    assert set(LOOP_KERNELS) < {one.where for one in entries}


def test_every_variant_that_a_step_can_reach_is_there(artifact: Artifact) -> None:
    limits = artifact.plan.limits
    blocks = -(-limits.max_model_len // artifact.plan.block_size)
    tokens = sorted({n + more for n in (1, 4, 16, 32, 64, 512, 1024, 8192) for more in (-1, 0, 1)})
    assert set(LOOP_KERNELS) < artifact.launch_archs.keys()
    for name in artifact.launch_archs:
        kernel = artifact.launch(name)
        for count, sequences, pages in product(tokens, (1, 32, 33), (1, blocks)):
            rows = min(count, limits.max_rows)
            sizes = {"T": count, "S": sequences, "R": rows, "P": pages, "K": 20}
            variant = kernel.variant(sizes)
            assert variant.library != bool(variant.launches)
            for launch in variant.launches:
                code = artifact.cubin(name, launch.file)
                assert code.startswith(b"\x7fELF")
                assert launch.symbol.encode() in code
                assert min(launch.counts(sizes)) >= (1 if count else 0)
                assert launch.spill_bytes == 0
                assert launch.programs >= 1


def test_the_kernels_between_steps_are_shown(artifact: Artifact) -> None:
    found = {row["kernel"]: row for row in kernels_json(artifact)}
    assert tuple(found)[-3:] == LOOP_KERNELS
    for name in LOOP_KERNELS:
        assert found[name]["steps"] == 0
        assert found[name]["launch"]["name"] == name
    symbols = [one[0] for one in launch_rows(kernels_json(artifact))]
    assert symbols[-5:] == ["sample_prepare", "sample_weigh", "sample_choose", "take", "advance"]


def test_the_report_says_what_kernels_take(artifact: Artifact) -> None:
    found = source_of(artifact)
    (first, *_) = [step.kernel for step in artifact.plan.steps()]
    assert found.kernels[first].startswith("# sm_90, ")
    page = (artifact.path / "report.html").read_text()
    assert "programs on a multiprocessor" in page


def test_again_it_takes_no_compiler(
    artifact: Artifact, checkpoint: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*_: object) -> None:
        raise AssertionError("something was compiled")

    monkeypatch.setattr(ahead, "_Process", no_process)
    monkeypatch.setitem(sys.modules, "triton", None)
    again = api.compile_checkpoint(
        checkpoint, home / "again.gopt", target="cuda:sm_90", dtype="bfloat16", reuse=False
    )
    files = [name for name in artifact.manifest["files"] if name.startswith("kernels/")]
    assert len(files) > 10
    for name in files:
        assert (again.path / name).read_bytes() == (artifact.path / name).read_bytes(), name


def test_running_it_here_is_refused(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(MachineError, match="runs on an NVIDIA GPU"):
        graphopt.LLM(artifact)
    with pytest.raises(MachineError, match="runs on an NVIDIA GPU"):
        api.verify_artifact(artifact.path)


def test_a_damaged_launch_is_named(artifact: Artifact, home: Path) -> None:
    name = next(iter(artifact.launch_archs))
    file = artifact.path / "kernels" / name / "sm_90" / "launch.json"
    text = file.read_text()
    try:
        file.write_text(json.dumps({"schema": 99}))
        with pytest.raises(ArtifactError, match="another schema"):
            artifact.launch(name)
    finally:
        file.write_text(text)


def test_without_triton_it_is_refused_before_the_work(
    checkpoint: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "triton_version", lambda: "none")
    with pytest.raises(MachineError, match="need Triton"):
        api.compile_checkpoint(checkpoint, home / "none.gopt", target="cuda:sm_80")
    assert not (home / "none.gopt").exists()
