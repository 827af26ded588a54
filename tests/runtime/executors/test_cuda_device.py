"""What tuning asks of a GPU; PyTorch's part is a stand-in, and the real one is for tests/gpu."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.runtime.executors import cuda_device
from graphopt.runtime.executors.cubins import TorchMemory
from graphopt.runtime.executors.cuda_device import REPETITIONS, WARMUPS, CudaDevice
from tests.runtime.executors.fake_driver import FakeDriver, FakeMemory


class Event:
    """Times grow by one more from event to event, so that the median is no edge."""

    made = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        Event.made += 1
        self.number = Event.made

    def record(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return end.number / 1000


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CudaDevice:
    monkeypatch.setattr(Event, "made", 0)
    cuda = SimpleNamespace(
        Event=Event,
        synchronize=lambda: None,
        get_device_name=lambda: "NVIDIA H200",
        current_device=lambda: 0,
    )

    def on_cpu(function: Any) -> Any:
        return lambda *args, device="", **rest: function(*args, **rest)

    names = ("float32", "bfloat16", "float8_e4m3fn", "uint8", "int64")
    fake = SimpleNamespace(
        cuda=cuda,
        empty=lambda count, **_: torch.empty(16, dtype=torch.uint8),
        randn=on_cpu(torch.randn),
        randint=on_cpu(torch.randint),
        from_numpy=lambda array: SimpleNamespace(to=lambda place: torch.from_numpy(array)),
        **{name: getattr(torch, name) for name in names},
    )
    monkeypatch.setitem(sys.modules, "torch", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(cuda_device, "open_driver", lambda: FakeDriver(arch=90))
    monkeypatch.setattr(cuda_device, "TorchMemory", FakeMemory)
    return CudaDevice()


def test_it_says_what_it_is(device: CudaDevice) -> None:
    assert (device.name, device.arch) == ("NVIDIA H200", "sm_90")


def test_numbers_live_until_they_are_given_back(device: CudaDevice) -> None:
    addresses = [
        device.put(np.arange(8)),
        device.noise(DType.BF16, 100),
        device.noise(DType.F8E4M3, 100),
        device.noise(DType.I8, 100),
    ]
    assert all(addresses)
    assert [one.nbytes for one in device._kept] == [64, 200, 100, 100]
    device.clear()
    assert device._kept == []


def test_work_is_timed_after_it_was_warmed_up(device: CudaDevice) -> None:
    done: list[int] = []
    micros = device.micros(lambda: done.append(Event.made))
    assert len(done) == WARMUPS + REPETITIONS
    assert done[:WARMUPS] == [0] * WARMUPS
    # The ends have even numbers up to twice the repetitions.
    assert micros == REPETITIONS + 1


def test_without_a_gpu_pytorch_is_named() -> None:
    if torch.cuda.is_available():
        assert TorchMemory().current_stream() >= 0
        return
    with pytest.raises(MachineError, match="PyTorch finds no GPU"):
        TorchMemory()
