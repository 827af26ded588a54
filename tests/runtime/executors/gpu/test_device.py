"""What is placed on a device is aligned; the protocol is kept without PyTorch."""

from __future__ import annotations

from graphopt.launch import ALIGNMENT
from graphopt.runtime.executors.gpu.device import DEVICE_ALIGNMENT, rounded
from tests.runtime.executors.imported import heavy_imports


def test_what_follows_is_aligned() -> None:
    assert [rounded(n) for n in (0, 1, 255, 256, 257)] == [0, 256, 256, 256, 512]
    assert DEVICE_ALIGNMENT % ALIGNMENT == 0


def test_a_device_needs_no_pytorch_before_it_is_one() -> None:
    assert heavy_imports("graphopt.runtime.executors.gpu.driver") == []
