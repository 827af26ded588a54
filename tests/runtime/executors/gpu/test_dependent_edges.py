"""Which kernels of a plan begin while the one before them ends: in graphs, and launched plainly.

Kernels do not run here: what is counted is how each is launched, and what its stream was given
before. A graph's edge is programmatic where the launch that was captured says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.artifact import Artifact
from graphopt.runtime.capture_choice import launches_of
from graphopt.runtime.capture_cost import whole_launches
from graphopt.runtime.capture_plan import CapturePlan
from graphopt.runtime.executors.gpu.driver import DriverDevice
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from tests.checkpoints import save_tiny
from tests.runtime.executors.gpu.interpreted_artifact import compile_interpreted
from tests.runtime.executors.gpu.memory_driver import MemoryDriver
from tests.runtime.executors.gpu.test_driver import KERNEL, driver, load
from tests.runtime.executors.gpu.test_driver_calls import LIMITS, decode

FULL, PROGRAMMATIC = "full", "programmatic"
# What a stream is given besides kernels.
OTHERS = ("cuMemcpy", "cuMemset", "cuGraphLaunch", "cuStreamBeginCapture", "cuStreamEndCapture")


@dataclass
class EdgeDriver(MemoryDriver):
    """A driver that takes any launch, and tells how each follows what came before it.

    Attributes:
        edges: of all launches; those of each capture are in ``captured``.
        captured: of each capture.
        wrong: launches that follow a copy, a graph or nothing, and do not wait for it.
    """

    edges: list[str] = field(default_factory=list)
    captured: list[list[str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def cuLaunchKernelEx(self, config: Any, handle: str, *rest: Any) -> Any:  # noqa: N802
        assert config.attrs[0].value.programmaticStreamSerializationAllowed == 1
        return self._launched(handle, PROGRAMMATIC)

    def cuLaunchKernel(self, handle: str, *rest: Any) -> Any:  # noqa: N802
        return self._launched(handle, FULL)

    def _launched(self, handle: str, edge: str) -> Any:
        given = [name for name, *_ in self.calls if name.startswith((*OTHERS, "cuLaunchKernel"))]
        if edge == PROGRAMMATIC and (not given or given[-1] != "cuLaunchKernel"):
            self.wrong.append(handle)
        self.edges.append(edge)
        if self.capturing is not None:
            self.capturing.append(handle)
            self.captured[-1].append(edge)
        return self._answer("cuLaunchKernel")

    def cuStreamBeginCapture(self, stream: int, mode: str) -> Any:  # noqa: N802
        self.captured.append([])
        return super().cuStreamBeginCapture(stream, mode)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small model whose kernels wait themselves."""
    folder: Path = tmp_path_factory.mktemp("edges")
    checkpoint = save_tiny(folder / "tiny", num_hidden_layers=1)
    return compile_interpreted(checkpoint, folder / "tiny.gopt", dependent_launch=True)


@pytest.mark.parametrize("watchdog", [0.0, 60.0])
def test_in_a_captured_decode_each_kernel_follows_the_one_before_early(
    artifact: Artifact, watchdog: float
) -> None:
    fake, plan = EdgeDriver(), CapturePlan((1, 4), (), 3, (0, 0), ())
    one = CudaExecutor(artifact, DriverDevice(fake), LIMITS, plan, watchdog_seconds=watchdog)
    one.allocate(12)
    assert len(fake.captured) == 2
    for size, edges in zip((4, 1), fake.captured, strict=True):
        sizes = plan.decode_sizes_at(size)
        count = whole_launches(artifact.plan, launches_of(artifact), sizes)
        assert edges == [FULL] + [PROGRAMMATIC] * (count - 1)
    one.close()


def test_so_does_each_kernel_of_a_captured_piece(artifact: Artifact) -> None:
    fake = EdgeDriver()
    one = CudaExecutor(artifact, DriverDevice(fake), LIMITS, CapturePlan((), (8,), 3, (), (0,)))
    one.allocate(12)
    assert fake.captured
    for edges in fake.captured:
        assert edges == [FULL] + [PROGRAMMATIC] * (len(edges) - 1)
    one.close()


def test_of_plain_launches_only_those_after_a_copy_wait_for_all(artifact: Artifact) -> None:
    fake = EdgeDriver()
    one = CudaExecutor(artifact, DriverDevice(fake), LIMITS)
    one.allocate(12)
    before = len(fake.edges)
    one.run(*decode(3, 10, {}))
    edges = fake.edges[before:]
    assert fake.wrong == []
    assert edges[0] == FULL
    # Inputs are copied before a step, and before its tokens are drawn what that takes.
    assert edges.count(FULL) <= 2
    assert edges.count(PROGRAMMATIC) >= 8
    one.close()


def _captures(device: DriverDevice) -> None:
    with device.capture():
        pass


def _replays(device: DriverDevice) -> None:
    with device.capture() as graph:
        pass
    device.replay(graph())


@pytest.mark.parametrize(
    ("does", "edge"),
    [
        (lambda device, place: None, PROGRAMMATIC),
        (lambda device, place: device.memory(), PROGRAMMATIC),
        (lambda device, place: device.write(place, np.zeros(4, np.uint8)), FULL),
        (lambda device, place: device.read(place, 4), FULL),
        (lambda device, place: device.fetch(place, 4)(), FULL),
        (lambda device, place: device.fill(place, 4, 0), FULL),
        (lambda device, place: device.view(place, 4), FULL),  # PyTorch works on it
        (lambda device, place: device.mark(1), FULL),
        (lambda device, place: _captures(device), FULL),
        (lambda device, place: _replays(device), FULL),
    ],
)
def test_what_is_no_such_kernel_is_over_before_the_next_one_begins(
    does: Callable[[DriverDevice, int], Any], edge: str
) -> None:
    fake = driver()
    device = DriverDevice(fake)
    (variant,) = KERNEL.variants
    launches = tuple(replace(one, dependent=True) for one in variant.launches)
    kernels = load(device, replace(KERNEL, variants=(replace(variant, launches=launches),)))
    kernels.reserve({"T": 8})
    place = device.allocate(64, "a test")
    for _ in range(2):
        kernels.launch("copy", [0x1000, 0x2000], {"T": 8})
    assert fake.early == ["copy"]
    does(device, place)
    kernels.launch("copy", [0x1000, 0x2000], {"T": 8})
    assert fake.early == ["copy"] * (2 if edge == PROGRAMMATIC else 1)
    device.close()


def test_the_first_of_a_capture_has_nothing_before_it() -> None:
    fake = driver()
    device = DriverDevice(fake)
    (variant,) = KERNEL.variants
    launches = tuple(replace(one, dependent=True) for one in variant.launches)
    kernels = load(device, replace(KERNEL, variants=(replace(variant, launches=launches),)))
    kernels.reserve({"T": 8})
    kernels.launch("copy", [0x1000, 0x2000], {"T": 8})
    with device.capture():
        for _ in range(3):
            kernels.launch("copy", [0x1000, 0x2000], {"T": 8})
    assert fake.early == ["copy"] * 2
    device.close()
