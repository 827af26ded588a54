"""What the driver is asked for: at the start for each captured size, and in a step.

Kernels do not run here; tokens are whatever lies in memory, and nobody looks at them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from graphopt.errors import DeviceLostError
from graphopt.runtime.capture_choice import choose_captures, launches_of
from graphopt.runtime.capture_cost import launched, whole_launches
from graphopt.runtime.capture_plan import CapturePlan
from graphopt.runtime.executor import SamplingInputs, StepInputs
from graphopt.runtime.executors.gpu import captures
from graphopt.runtime.executors.gpu.driver import DriverDevice
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.scheduler import SchedulerLimits
from tests.checkpoints import save_tiny
from tests.runtime.executors.gpu.interpreted_artifact import compile_interpreted, tiny
from tests.runtime.executors.gpu.memory_driver import MemoryDriver

LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=16, max_rows=16, max_model_len=48)


@dataclass
class CountingDriver(MemoryDriver):
    """A driver that takes any launch."""

    def cuLaunchKernel(self, handle: str, *rest: Any) -> tuple[Any, ...]:  # noqa: N802
        if self.capturing is not None:
            self.capturing.append(handle)
        return self._answer("cuLaunchKernel")

    def clock_s(self) -> float:
        """A clock that goes on by 390 microseconds in each call, and stands still else.

        Asking for what has happened costs nothing: how often that is done is a matter of time.
        """
        return 390e-6 * sum(not name.endswith("Query") for name, *_ in self.calls)

    def since(self, before: int) -> Counter[str]:
        """Calls since there were ``before``."""
        return Counter(name for name, *_ in self.calls[before:])


def executor(driver: CountingDriver, captured: CapturePlan, **options: Any) -> CudaExecutor:
    return CudaExecutor(tiny(), DriverDevice(driver), LIMITS, captured, **options)


def decode(count: int, length: int, sampling: dict[str, Any]) -> tuple[StepInputs, SamplingInputs]:
    """A step of sequences of so many tokens, each in blocks of its own."""
    rows = np.arange(count)
    positions = np.full(count, length - 1)
    tables = (rows[:, None] * 3 + np.arange(-(-length // 16))).astype(np.int32)
    inputs = StepInputs(
        token_ids=np.zeros(count, np.int64),
        positions=positions,
        rows=rows,
        slots=tables[:, -1].astype(np.int64) * 16 + positions % 16,
        starts=np.arange(count + 1, dtype=np.int32),
        lengths=np.full(count, length, np.int32),
        tables=tables,
    )
    counters = np.full(count, length, np.uint64)
    random = {"counters": counters} if sampling else {}
    return inputs, SamplingInputs(count, **sampling, **random)


RANDOM: dict[str, Any] = {
    "temperature": np.full(3, 0.7, np.float32),
    "top_p": np.full(3, 0.9, np.float32),
    "seeds": np.arange(3, dtype=np.uint64),
    "streams": np.zeros(3, np.uint64),
}


@pytest.mark.parametrize("sampling", [{}, RANDOM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("watchdog", [0.0, 60.0])
def test_a_steady_decode_is_one_launch_and_copies_nothing_there(
    sampling: dict[str, Any], watchdog: float
) -> None:
    driver = CountingDriver()
    one = executor(driver, CapturePlan((1, 4), (), 3, (0, 0), ()), watchdog_seconds=watchdog)
    one.allocate(12)
    own = np.arange(3)
    one.start(*decode(3, 10, sampling), np.full(3, -1))
    counts = []
    for length in range(11, 21):
        before = len(driver.calls)
        one.start(*decode(3, length, sampling), own)
        counts.append(driver.since(before))
        one.finish()
    steady = Counter(cuGraphLaunch=1, cuMemcpyDtoHAsync=1, cuEventRecord=1)
    begins = 17 - 11  # a block begins
    for place, found in enumerate(counts):
        waits = found.pop("cuEventSynchronize", 0) + found.pop("cuEventQuery", 0)
        if place == begins:
            assert found == steady + Counter(cuMemcpyHtoDAsync=1, cuEventRecord=1)
        else:
            assert found == steady
            assert waits == 0, "nothing is waited for before the step is under way"
    one.close()


def piece_of_each_launch(one: CudaExecutor, size: int) -> list[str]:
    """What is named where each launch of a captured decode hangs."""
    sizes = one.captures.plan.decode_sizes_at(size)
    found = ["making the inputs"]
    for piece, steps in one._bound:
        first, last = (f"{at.step.name} of {at.step.scope}" for at in (steps[0], steps[-1]))
        said = first if len(steps) == 1 else f"{first} to {last}"
        for step in steps:
            assert step.kernel is not None
            found += [f"{piece.name} ({said})"] * launched(step.kernel, sizes)
    launches = whole_launches(one._plan, launches_of(tiny()), sizes)
    return [*found, *["sampling"] * (launches - len(found))]


@pytest.mark.parametrize(("size", "count"), [(4, 3), (1, 1)])
def test_whatever_hangs_in_a_captured_decode_its_piece_is_named(size: int, count: int) -> None:
    """Decodes of two sizes alternate, and another step is under way when one hangs."""
    plan, places = CapturePlan((1, 4), (), 3, (0, 0), ()), 1
    place = 0
    while place < places:
        driver = CountingDriver()
        one = executor(driver, plan, watchdog_seconds=600.0)
        one.allocate(12)
        named = piece_of_each_launch(one, size)
        places = len(named)
        for sequences in (3, 1, 3, 1):
            one.run(*decode(sequences, 10, {}))
        driver.hanging = place
        for sequences in (count, 4 - count):
            one.start(*decode(sequences, 11, {}), np.full(sequences, -1))
        driver.settle()
        one._device.watch(0.001)
        with pytest.raises(DeviceLostError, match="does not end") as caught:
            one.finish()
        assert caught.value.where == f"{named[place]} of the captured decode of {count} sequences"
        place += 1
    assert len(set(named)) > 4


def test_marks_cost_two_calls_each_at_the_start_and_launches_stay_what_they_are() -> None:
    plan, counts, graphs = CapturePlan((1, 4), (), 3, (0, 0), ()), [], []
    for options in ({"unmarked_captures": True}, {}):
        driver = CountingDriver()
        one = executor(driver, plan, watchdog_seconds=60.0, **options)
        before = len(driver.calls)
        one.allocate(12)
        counts.append(driver.since(before))
        graphs.append((driver.graphs, driver.marks))
        pieces = len(one._bound)
        one.close()
    (plain, none), (marked, marks) = graphs
    assert marked == plain
    assert none == {}
    # Before what makes inputs, each piece, and sampling, and after it.
    assert [len(found) for found in marks.values()] == [pieces + 3] * 2
    edges = [sum(len(before) for before, _ in found) for found in marks.values()]
    assert edges == [2 * (pieces + 2)] * 2
    nodes = 2 * (pieces + 3)
    more = Counter(cuStreamGetCaptureInfo=nodes, cuGraphAddBatchMemOpNode=nodes)
    assert counts[1] - counts[0] == more
    assert counts[0] - counts[1] == Counter()


@pytest.mark.parametrize("call", ["cuGraphAddBatchMemOpNode", "cuStreamGetCaptureInfo"])
def test_a_driver_that_refuses_marks_captures_without(call: str) -> None:
    driver = CountingDriver(failing=frozenset({call}))
    plan = CapturePlan((1, 4), (), 3, (0, 0), ())
    one = executor(driver, plan, watchdog_seconds=600.0)
    one.allocate(12)
    assert one.captures.plan == plan
    assert driver.since(0)[call] == 1, "it is not asked again"
    driver.hanging = 5
    one.start(*decode(3, 10, {}), np.full(3, -1))
    driver.settle()
    one._device.watch(0.001)
    with pytest.raises(DeviceLostError) as caught:
        one.finish()
    assert caught.value.where == "the captured decode of 3 sequences"


def test_capturing_asks_for_little_besides_the_launches() -> None:
    driver = CountingDriver()
    artifact, limits = tiny(), replace(LIMITS, max_num_batched_tokens=64, max_num_seqs=16)
    launches = launches_of(artifact)
    plan = choose_captures(artifact.plan, launches, limits)
    one = CudaExecutor(artifact, DriverDevice(driver), limits, plan, lazy_captures=True)
    one.allocate(12)
    before = len(driver.calls)
    one.captures.make_all(lambda *_: None)
    found = driver.since(before)
    sizes = len(plan.decode_sizes) + len(plan.piece_sizes)
    graphs = found["cuStreamBeginCapture"]
    assert graphs >= sizes > 5
    wholes = sum(
        whole_launches(artifact.plan, launches, plan.decode_sizes_at(size))
        for size in plan.decode_sizes
    )
    captured = sum(len(handles) for handles in driver.graphs.values())
    assert found["cuLaunchKernel"] == captured
    assert sum(len(driver.graphs[n]) for n in range(len(plan.decode_sizes))) == wholes
    rest = found.total() - found["cuLaunchKernel"]
    each = ("BeginCapture", "EndCapture", "Instantiate", "Destroy", "Upload")
    assert all(found[name] == graphs for name in found if name.endswith(each))
    # What is free is looked for before and after each size, and all is waited for once.
    assert rest == len(each) * graphs + 2 * sizes + 1
    one.close()


@pytest.mark.full
def test_the_default_sizes_of_36_layers_are_captured_in_ten_seconds_of_390_us_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_tiny(tmp_path / "deep", num_hidden_layers=36)
    artifact = compile_interpreted(checkpoint, tmp_path / "deep.gopt")
    limits = SchedulerLimits(256, 2048, 256, 4096)
    plan = choose_captures(artifact.plan, launches_of(artifact), limits)
    driver = CountingDriver(total=1 << 40)
    one = CudaExecutor(
        artifact, DriverDevice(driver), limits, plan, lazy_captures=True, watchdog_seconds=60.0
    )
    one.allocate(12)
    monkeypatch.setattr(captures, "time", SimpleNamespace(monotonic=driver.clock_s))
    before = driver.clock_s()
    one.captures.make_all(lambda *_: None)
    assert one.captures.plan == plan
    sizes = len(plan.decode_sizes) + len(plan.piece_sizes)
    graphs = len(plan.decode_sizes) + len(plan.piece_sizes) * 36
    assert (sizes, len(driver.graphs)) == (59, graphs)
    assert one.captures.took_s == driver.clock_s() - before < 10.0
    one.close()
