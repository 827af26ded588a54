"""On the device: a kernel that does not end is found, and its piece is named, captured or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.errors import DeviceLostError
from graphopt.runtime.capture_plan import NOTHING_CAPTURED, CapturePlan
from graphopt.runtime.executors.gpu.driver import DriverDevice
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.scheduler import SchedulerLimits
from tests.checkpoints import save_tiny
from tests.runtime.executors.gpu.test_driver_calls import decode

pytestmark = pytest.mark.gpu

LIMITS = SchedulerLimits(max_num_seqs=4, max_num_batched_tokens=16, max_rows=16, max_model_len=64)
CAPTURED = CapturePlan((1, 4), (), 4, (0, 0), ())


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("watchdog")
    checkpoint = save_tiny(folder / "tiny", num_hidden_layers=3)
    major, minor = torch.cuda.get_device_capability()
    target = f"cuda:sm_{major}{minor}"
    return api.compile_checkpoint(
        checkpoint, folder / "tiny.gopt", target=target, dtype="float32", reuse=False
    )


def opened(artifact: Artifact, captured: CapturePlan, **options: Any) -> CudaExecutor:
    return CudaExecutor(artifact, DriverDevice(), LIMITS, captured, watchdog_seconds=3.0, **options)


def test_the_driver_takes_marks_and_a_captured_decode_leaves_its_own(artifact: Artifact) -> None:
    executor = opened(artifact, CAPTURED)
    executor.allocate(12)
    assert executor.captures.plan == CAPTURED, executor.captures.plan.reasons
    marked = executor._watchdog._captured
    assert set(marked) == {1, 4}, "both sizes were captured, and no mark was refused"
    for size, count in ((4, 3), (1, 1), (4, 4), (1, 1)):
        assert len(marked[size]) == len(executor._bound) + 3
        assert len(executor.run(*decode(count, 17, {})).token_ids) == count
        executor._device.synchronize()
        assert executor._device._marks.reached == max(marked[size])  # type: ignore[attr-defined]
    executor.close()


@pytest.mark.parametrize("captured", [CAPTURED, NOTHING_CAPTURED], ids=["captured", "plain"])
@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_the_piece_that_hangs_is_named(
    artifact: Artifact, captured: CapturePlan, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that fills the GPU waits before a step; decodes of two sizes are under way."""
    from tests.gpu.gate import Gate

    executor = opened(artifact, captured)
    gate = Gate(executor._device.stream)
    pieces = [piece for piece, steps in executor._bound for _ in steps]
    place = int(share * len(pieces))
    launch, count = executor._kernels.launch, 0

    def launch_or_hang(name: str, pointers: Sequence[int], sizes: Mapping[str, int]) -> None:
        nonlocal count
        if sizes["S"] >= 3 and count == place:
            gate.close()
        count += sizes["S"] >= 3
        launch(name, pointers, sizes)

    monkeypatch.setattr(executor._kernels, "launch", launch_or_hang)
    executor.allocate(12)
    assert len(executor.run(*decode(1, 17, {})).token_ids) == 1
    for rows in (3, 1):
        executor.start(*decode(rows, 18, {}), np.full(rows, -1))
    with pytest.raises(DeviceLostError, match="does not end") as caught:
        executor.finish()
    gate.open()  # the device is given up all the same, and its memory stays until the process ends
    step = "the captured decode of 3" if captured.decode_sizes else "a step of 3 tokens in 3"
    assert str(caught.value.where).startswith(f"{pieces[place].name} (")
    assert str(caught.value.where).endswith(f") of {step} sequences")
    with pytest.raises(DeviceLostError, match="has not answered since"):
        executor.run(*decode(1, 18, {}))
    executor.close()
