"""Tuning on a device that is none: what is timed and kept, and what the compiler makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.codegen.triton import ahead, backend
from graphopt.codegen.triton.autotune import read_tuned
from graphopt.codegen.triton.worker import Built
from graphopt.errors import ArtifactError, MachineError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ledger import refuse
from graphopt.loop_kernels import LOOP_KERNELS
from graphopt.region import Region
from graphopt.tune_api import step_inputs, tune_artifact, typical_sizes
from tests.checkpoints import save_tiny
from tests.runtime.executors.gpu.fake_driver import FakeDriver, FakeMemory
from tests.runtime.fakes import small_plan

BUILT = Built(b"", "f", 128, 0, 0, 1, 40, 0, 12, 3, 0, False, ())


def compiler(requests: Sequence[Any], arch: int, **_: Any) -> list[Any]:
    """Compiles nothing: a code says which function, warps and stages it was asked for."""
    found: list[Any] = []
    for request in requests:
        launches = request.variant.launches
        names = [f"{one.function} {one.num_warps} {one.num_stages}" for one in launches]
        made = [
            replace(BUILT, code=name.encode(), symbol=one.function)
            for name, one in zip(names, launches, strict=True)
        ]
        found.append(refuse("no") if launches[0].num_stages == 1 else tuple(made))
    return found


class Signatures(dict[str, str]):
    """Of any function; arguments are not looked at."""

    def __missing__(self, name: str) -> str:
        return ""


@dataclass
class FakeDevice:
    """Two warps are fastest, and fewer stages; PyTorch has a time of its own."""

    name: str = "NVIDIA H200"
    arch: str = "sm_90"
    driver: FakeDriver = field(default_factory=lambda: FakeDriver(signatures=Signatures()))
    memory: FakeMemory = field(default_factory=FakeMemory)
    arrays: list[npt.NDArray[np.generic]] = field(default_factory=list)
    alive: int = 0
    timed: list[str] = field(default_factory=list)
    noises: list[tuple[DType, int]] = field(default_factory=list)
    library_micros: tuple[float, float] | None = None
    asked: set[str] = field(default_factory=set)

    def put(self, array: npt.NDArray[np.generic]) -> int:
        self.arrays.append(array)
        return self.noise(DType.U8, array.nbytes)

    def noise(self, dtype: DType, count: int) -> int:
        self.alive += 1
        self.noises.append((dtype, count))
        return self.memory.zeros(count * dtype.nbytes)

    def clear(self) -> None:
        self.alive = 0

    def micros(self, works: Sequence[Callable[[], None]]) -> list[tuple[float, float]]:
        return [self._took(work) for work in works]

    def _took(self, work: Callable[[], None]) -> tuple[float, float]:
        before = len(self.driver.launched)
        work()
        if len(self.driver.launched) == before:
            assert self.library_micros is not None
            return self.library_micros
        loaded = [given[0] for name, *given in self.driver.calls if name == "cuModuleLoadData"]
        name, warps, stages = loaded[-1].decode().split()
        self.timed.append(name)
        return abs(int(warps) - 2) * 10.0 + int(stages), 1e9

    def library(
        self, graph: Graph, region: Region, addresses: Sequence[int], sizes: Mapping[str, int]
    ) -> Callable[[], None] | None:
        assert len(addresses) == len(region.inputs) + len(region.outputs)
        self.asked.add(region.family)
        return None if self.library_micros is None else lambda: None


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "build_all", compiler)
    monkeypatch.setattr(backend, "build_all", compiler)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tune") / "tiny", num_hidden_layers=1)


def compiled(checkpoint: Path, place: Path, target: str = "cuda:sm_90") -> Artifact:
    return api.compile_checkpoint(checkpoint, place, target=target, dtype="bfloat16", reuse=False)


@pytest.mark.slow
def test_the_fastest_is_kept_and_taken(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, device = compiled(checkpoint, tmp_path / "one.gopt"), FakeDevice()
    found = tune_artifact(artifact.path, folder=tmp_path / "tuned", device=device)
    assert (found.gpu, found.file.name) == ("NVIDIA H200", "nvidia_h200.json")
    names = {step.kernel for step in artifact.plan.steps() if step.backend == "triton"}
    assert {one.kernel for one in found.timings} == names
    kernels = {name: artifact.launch(name) for name in names}
    buckets = {(name, one.bucket) for name, kernel in kernels.items() for one in kernel.variants}
    assert {(one.kernel, one.bucket) for one in found.timings} == buckets
    assert device.alive == 0
    for one in found.timings:
        assert one.candidates > 1, one
        assert one.micros is not None
        assert one.pick_micros is not None
        assert one.micros <= one.pick_micros
        assert one.least_micros is not None
        assert one.least_micros > 0, one
    tuned = read_tuned("NVIDIA H200", tmp_path / "tuned")
    assert len(tuned.choices) == len({(k.family, k.shape, k.bucket) for k in tuned.choices})
    # The compiler takes them, and says so.
    monkeypatch.setattr("graphopt.codegen.triton.autotune.tuned_for", lambda arch: tuned)
    again = compiled(checkpoint, tmp_path / "two.gopt")
    variants = [one for name in names for one in again.launch(name).variants]
    assert {one.origin for one in variants} == {"measured on NVIDIA H200"}
    entries = [one for one in again.ledger().entries if one.rule == "backend:triton"]
    reasons = [one.reason for one in entries if one.where not in LOOP_KERNELS]
    assert reasons
    assert all(reason.startswith("sm_90: measured on NVIDIA H200 for ") for reason in reasons)


@pytest.mark.slow
def test_weights_in_few_bits_are_as_large_as_they_are_stored(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "odd", num_hidden_layers=1, hidden_size=72)
    options = {"target": "cuda:sm_90", "dtype": "bfloat16", "quantize": "int8"}
    artifact = api.compile_checkpoint(folder, tmp_path / "odd.gopt", reuse=False, **options)
    device = FakeDevice(library_micros=(0.5, 0.5))
    found = tune_artifact(
        artifact.path, folder=tmp_path / "tuned", only="rms_norm_quantized", device=device
    )
    assert {one.library_micros for one in found.timings} == {None}
    assert device.asked == set()
    read = {
        operand
        for step in artifact.plan.steps()
        for operand in step.operands
        if step.name.startswith("rms_norm+quantized")
    }
    packed = [name for name in artifact.plan.layouts if f"@{name}" in read]
    assert len(packed) == 4
    sizes = {name: artifact.weights.stored(name).size for name in packed}
    assert any(sizes[name] > artifact.weights.view(name).size for name in packed)
    assert {(artifact.weights.dtype(name), sizes[name]) for name in packed} <= set(device.noises)


@pytest.mark.slow
@pytest.mark.parametrize("took", [(0.5, 0.25), (0.25, 0.5), (0.25, 100.0)])
def test_a_library_that_is_faster_is_kept_and_called(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took: tuple[float, float]
) -> None:
    artifact = compiled(checkpoint, tmp_path / "one.gopt")
    device = FakeDevice(library_micros=took)
    found = tune_artifact(artifact.path, folder=tmp_path / "tuned", only="linear", device=device)
    assert device.asked == {"linear"}
    wins = max(took) < 1.0
    for one in found.timings:
        assert one.library_micros == max(took)
        assert (one.chosen == "PyTorch") == wins
    tuned = read_tuned("NVIDIA H200", tmp_path / "tuned")
    monkeypatch.setattr("graphopt.codegen.triton.autotune.tuned_for", lambda arch: tuned)
    again = compiled(checkpoint, tmp_path / "two.gopt")
    names = {one.kernel for one in found.timings}
    variants = [one for name in names for one in again.launch(name).variants]
    assert variants
    assert all(one.library == wins for one in variants)
    told = "measured on NVIDIA H200" + f": PyTorch {max(took)} µs, the kernel " * wins
    assert all(one.origin.startswith(told) for one in variants)
    ledger = [one for one in again.ledger().entries if one.rule == "backend:triton"]
    assert any(one.reason.startswith(f"sm_90: {told}") for one in ledger)
    assert ("PyTorch, measured on" in (again.path / "report.html").read_text()) == wins


@pytest.mark.slow
def test_only_some_kernels_and_only_the_right_gpu(checkpoint: Path, tmp_path: Path) -> None:
    artifact = compiled(checkpoint, tmp_path / "one.gopt")
    found = tune_artifact(
        artifact.path, folder=tmp_path / "tuned", only="embed", device=FakeDevice()
    )
    assert {one.kernel.rpartition("_")[0] for one in found.timings} == {"embed"}
    with pytest.raises(UsageError, match="no such kernel"):
        tune_artifact(artifact.path, folder=tmp_path, only="nothing", device=FakeDevice())
    with pytest.raises(ArtifactError, match="another GPU"):
        tune_artifact(artifact.path, folder=tmp_path, device=FakeDevice(arch="sm_80"))
    with pytest.raises(MachineError, match="NVIDIA GPU"):
        tune_artifact(artifact.path, folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_kernels_for_a_cpu_are_not_tuned(checkpoint: Path, tmp_path: Path) -> None:
    artifact = compiled(checkpoint, tmp_path / "cpu.gopt", "cpu")
    with pytest.raises(UsageError, match="only kernels for a GPU"):
        tune_artifact(artifact.path, folder=tmp_path, device=FakeDevice())


@pytest.mark.parametrize(
    "below", [{"T": 1}, {"T": 16}, {"T": 64}, {"T": 512, "S": 3}, {"R": 4}, {"P": 2}, {}]
)
def test_a_step_is_within_its_bucket_and_consistent(below: dict[str, int]) -> None:
    plan = small_plan()
    sizes = typical_sizes(plan, below)
    assert all(sizes[name] <= bound for name, bound in below.items())
    assert min(sizes.values()) >= 1
    given = step_inputs(plan, sizes)
    assert len(given["token_ids"]) == len(given["slots"]) == sizes["T"]
    assert given["tables"].shape == (sizes["S"], sizes["P"])
    assert given["starts"][-1] == sizes["T"]
    assert len(given["rows"]) == sizes["R"]
    assert (given["rows"] < sizes["T"]).all()
    block_size = plan.block_size
    for sequence, (start, end) in enumerate(
        zip(given["starts"][:-1], given["starts"][1:], strict=True)
    ):
        positions, slots = given["positions"][start:end], given["slots"][start:end]
        assert (given["tables"][sequence][positions // block_size] == slots // block_size).all()
        assert (positions < given["lengths"][sequence]).all()
        assert (given["reaches"][start:end] == given["lengths"][sequence]).all()
