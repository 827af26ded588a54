"""What tuning asks of a GPU; PyTorch's part is a stand-in, and the real one is for tests/gpu."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from graphopt.errors import MachineError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.region import make_region
from graphopt.runtime.executors.gpu import tuning
from graphopt.runtime.executors.gpu.cubins import TorchMemory
from graphopt.runtime.executors.gpu.tuning import REPETITIONS, WARMUPS, CudaDevice
from tests.runtime.executors.gpu.fake_driver import FakeDriver, FakeMemory


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


def product_of() -> Graph:
    b = GraphBuilder("mlp")
    x = b.input("x", TensorType(DType.BF16, (sym("T"), 16)))
    w = b.weight("w", TensorType(DType.BF16, (24, 16)))
    return b.finish([b.one("gelu", [b.one("linear", [x, w])])])


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
        inference_mode=torch.inference_mode,
        from_numpy=lambda array: SimpleNamespace(to=lambda place: torch.from_numpy(array)),
        **{name: getattr(torch, name) for name in names},
    )
    monkeypatch.setitem(sys.modules, "torch", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(tuning, "open_driver", lambda: FakeDriver(arch=90))
    monkeypatch.setattr(tuning, "TorchMemory", FakeMemory)
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
    assert [one.nbytes for one in device._kept.values()] == [64, 200, 100, 100]
    assert list(device._kept) == addresses
    device.clear()
    assert device._kept == {}


def test_works_take_turns_after_they_were_warmed_up(
    device: CudaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    done: list[tuple[str, int]] = []

    def slow() -> None:
        clock.now += 5e-6
        done.append(("slow", Event.made))

    fast, other = device.micros([lambda: done.append(("fast", Event.made)), slow])
    assert [name for name, _ in done] == ["fast", "slow"] * (WARMUPS + REPETITIONS)
    assert [made for _, made in done[: 2 * WARMUPS]] == [0] * 2 * WARMUPS
    # Their ends are 2, 6, 10, .. and 4, 8, 12, ..
    assert (fast.device, other.device) == (2 * REPETITIONS, 2 * REPETITIONS + 2)
    assert fast.host == 0.0
    assert other.host == pytest.approx(5.0)


def test_pytorch_computes_a_region_on_the_numbers_that_are_there(
    device: CudaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", torch)  # its operators look for it
    graph = product_of()
    region = make_region(graph, [0, 1], family="linear", name="linear")
    sizes = {"T": 5}
    addresses = [device.noise(DType.BF16, count) for count in (80, 24 * 16, 120)]
    a, weight, out = device._kept.values()
    work = device.library(graph, region, addresses, sizes)
    assert work is not None
    out.fill_(float("nan"))
    work()
    expected = torch.nn.functional.gelu(a.view(5, 16) @ weight.view(24, 16).T)
    torch.testing.assert_close(out.view(5, 24), expected)


def test_what_pytorch_refuses_is_no_contender(
    device: CudaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(torch.nn.functional, "linear", short_of_memory)
    graph = product_of()
    region = make_region(graph, [0, 1], family="linear", name="linear")
    addresses = [device.noise(DType.BF16, count) for count in (80, 24 * 16, 120)]
    assert device.library(graph, region, addresses, {"T": 5}) is None


def test_without_a_gpu_pytorch_is_named() -> None:
    if torch.cuda.is_available():
        assert TorchMemory().current_stream() >= 0
        return
    with pytest.raises(MachineError, match="PyTorch finds no GPU"):
        TorchMemory()
