"""On the device: a request has the same bits alone and in any batch, if it was compiled so."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
import torch

from graphopt import api
from graphopt.artifact import Artifact
from graphopt.runtime.capture_plan import NOTHING_CAPTURED, CapturePlan
from graphopt.runtime.executors.gpu.driver import DriverDevice
from graphopt.runtime.executors.gpu.executor import CudaExecutor
from graphopt.runtime.scheduler import SchedulerLimits
from tests.runtime.test_determinism import Bits, Request, _checkpoint, _requests, _run

pytestmark = pytest.mark.gpu

BLOCKS = 160
CAPTURED = CapturePlan((1, 2, 4, 8), (16, 64, 256), 256, (0,) * 4, (0,) * 3)


def compiled(name: str) -> Artifact:
    folder = _checkpoint(name)
    major, minor = torch.cuda.get_device_capability()
    return api.compile_checkpoint(
        folder,
        folder.with_suffix(".deterministic.gopt"),
        target=f"cuda:sm_{major}{minor}",
        dtype="bfloat16",
        block_size=16,
        deterministic=True,
    )


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "moe"])
def test_bits_are_those_of_the_request_alone(name: str) -> None:
    artifact, rng = compiled(name), Random(5)
    requests = _requests(rng, [5, 40, rng.randint(300, 420), 1, rng.randint(260, 300), 90], 24)

    def run(
        limits: SchedulerLimits, some: Sequence[Request], captured: CapturePlan, mix: Random | None
    ) -> list[Bits]:
        device = DriverDevice()
        executor = CudaExecutor(artifact, device, limits, captured)
        try:
            return _run(executor, some, limits, BLOCKS, mix)[0]
        finally:
            executor.close()
            device.close()

    lonely = SchedulerLimits(1, 2048, 64, 2048)
    expected = [run(lonely, [one], NOTHING_CAPTURED, None)[0] for one in requests]
    for turn in range(8):
        limits = SchedulerLimits(rng.randint(2, 8), rng.choice((33, 250, 2048)), 64, 2048)
        captured = CAPTURED if turn % 2 else NOTHING_CAPTURED
        assert run(limits, requests, captured, rng) == expected, (limits, turn)
