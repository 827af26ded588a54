"""A GPU through its driver: everything on one stream, and everything given back."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphopt.errors import ArtifactError, MachineError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.launch import Launch, LaunchKernel, LaunchVariant
from graphopt.runtime.executors.gpu.device import (
    DEVICE_ALIGNMENT,
    DeviceHangError,
    DeviceMemoryError,
)
from graphopt.runtime.executors.gpu.driver import DriverDevice
from tests.runtime.executors.gpu.memory_driver import MemoryDriver, hang

T = sym("T")
LAUNCH = Launch("0.cubin", "copy", {}, (T, 1, 1), 4, 3, 128, 0, 0, 1, 32, 0, 16)
KERNEL = LaunchKernel(
    "copy", "sm_90", (DType.F32, DType.F32, None), ("T",), 4 * T, (LaunchVariant({}, (LAUNCH,)),)
)


def driver(**changes: Any) -> MemoryDriver:
    return MemoryDriver(signatures={"copy": "pppipp"}, **changes)


def load(device: DriverDevice, kernel: LaunchKernel = KERNEL) -> Any:
    return device.kernels({"copy": kernel}, lambda name, file: b"code")


def called(fake: MemoryDriver) -> list[str]:
    return [name for name, *_ in fake.calls]


def test_memory_is_taken_written_filled_and_read() -> None:
    fake = driver()
    device = DriverDevice(fake)
    assert device.arch == "sm_90"
    assert device.memory() == (1 << 30, 1 << 30)
    place = device.allocate(1000, "a test")
    assert place % DEVICE_ALIGNMENT == 0
    assert device.memory()[0] == (1 << 30) - 1000
    device.fill(place, 16, 7)
    device.fill(place, 0, 9)
    given = np.array([1, 2], np.int32)
    device.write(place + 4, given)
    given[:] = 0
    assert device.read(place, 16).tolist() == [7] * 4 + [1, 0, 0, 0, 2, 0, 0, 0] + [7] * 4
    device.write(place, given)
    device.free(place)
    assert fake.queue == [], "what uses it is finished first"
    assert device.memory()[0] == 1 << 30
    assert {call[-1] for call in fake.calls if "Memcpy" in call[0] or "set" in call[0]} == {77}


def test_of_nothing_there_is_an_address_too() -> None:
    device = DriverDevice(driver())
    assert device.allocate(0, "nothing")


def test_too_little_memory_says_for_what() -> None:
    device = DriverDevice(driver(total=5000))
    with pytest.raises(DeviceMemoryError, match="no memory for keys and values") as caught:
        device.allocate(6000, "keys and values")
    assert "6,000 bytes wanted, 5,000 of 5,000 free" in str(caught.value)


def test_launches_go_to_its_stream_with_memory_of_zeros() -> None:
    fake = driver()
    device = DriverDevice(fake)
    kernels = load(device)
    kernels.reserve({"T": 8})
    kernels.launch("copy", [256, 512], {"T": 8})
    ((symbol, grid, threads, shared, stream, given),) = fake.launched
    assert (symbol, grid, threads, shared, stream) == ("copy", (8, 1, 1), 128, 0, 77)
    workspace = kernels.workspaces()["the workspace of copy"]
    assert given == [256, 512, workspace, 8, 0, 0]
    assert not device.read(workspace, 32).any()


def test_kernels_for_another_gpu_are_refused() -> None:
    device = DriverDevice(driver(arch=80))
    with pytest.raises(ArtifactError, match="no kernels for this GPU"):
        load(device)


def test_what_is_captured_runs_when_it_is_replayed() -> None:
    fake = driver()
    device = DriverDevice(fake)
    kernels = load(device)
    kernels.reserve({"T": 8})
    free, _ = device.memory()
    with device.capture() as graph:
        for tokens in (3, 5):
            kernels.launch("copy", [256, 512], {"T": tokens})
        assert fake.launched == []
    assert [grid for _, grid, *_ in fake.launched] == []
    found = graph()
    assert free - device.memory()[0] == 2 * fake.node_bytes
    assert called(fake).count("cuGraphUpload") == 1, "what it is made of is there before it runs"
    for _ in range(2):
        device.replay(found)
    assert [grid for _, grid, *_ in fake.launched] == [(3, 1, 1), (5, 1, 1)] * 2
    assert ("cuStreamBeginCapture", 77, "this thread's") in fake.calls
    assert "cuGraphDestroy" in called(fake), "what it was made of is not kept"
    device.release(found)
    assert fake.execs == {}
    with pytest.raises(UsageError, match="no graph of this device"):
        device.replay(found)


def test_nothing_but_launches_is_captured() -> None:
    device = DriverDevice(driver())
    place = device.allocate(8, "a test")
    for action in (
        lambda: device.write(place, np.array([1])),
        lambda: device.read(place, 8),
        lambda: device.fill(place, 8, 0),
        lambda: device.allocate(8, "more"),
        lambda: device.free(place),
        device.synchronize,
    ):
        with pytest.raises(UsageError, match="captures launches cannot"), device.capture():
            action()
    device.write(place, np.array([5]))
    assert device.read(place, 8).view(np.int64) == 5


def test_an_error_ends_the_capture() -> None:
    fake = driver()
    device = DriverDevice(fake)
    with pytest.raises(ValueError, match="of ours"), device.capture():
        raise ValueError("of ours")
    assert fake.capturing is None
    assert called(fake)[-1] == "cuGraphDestroy"


@pytest.mark.parametrize(
    "call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphUpload"]
)
def test_a_capture_that_the_driver_refuses(call: str) -> None:
    fake = driver(failing=frozenset({call}))
    device = DriverDevice(fake)
    with pytest.raises(MachineError, match=f"refuses {call}"), device.capture():
        pass
    assert fake.execs == {}
    assert device.allocate(8, "it goes on")


def test_each_thread_is_attached_when_it_comes() -> None:
    fake = driver()
    device = DriverDevice(fake)

    def use() -> None:
        device.attach()
        device.attach()

    assert called(fake).count("cuCtxSetCurrent") == 1
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert called(fake).count("cuCtxSetCurrent") == 2
    use()
    assert called(fake).count("cuCtxSetCurrent") == 3


def test_all_is_given_back_once() -> None:
    fake = driver()
    device = DriverDevice(fake)
    kernels = load(device, replace(KERNEL))
    kernels.reserve({"T": 8})
    device.allocate(100, "a test")
    with device.capture():
        kernels.launch("copy", [256, 512], {"T": 1})
    device.close()
    device.close()
    assert fake.blocks == fake.host == fake.execs == {}
    for name in ("cuDevicePrimaryCtxRelease", "cuStreamDestroy", "cuModuleUnload"):
        assert called(fake).count(name) == 1


def test_pytorch_sees_bytes_where_they_are() -> None:
    interface = DriverDevice(driver()).view(4096, 12).__cuda_array_interface__
    assert interface["data"] == (4096, False)
    assert interface["shape"] == (12,)
    assert interface["typestr"] == "|u1"


def test_what_does_not_end_is_given_up_with_the_last_mark() -> None:
    fake = driver()
    device = DriverDevice(fake)
    place = device.allocate(64, "a test")
    device.write(place, np.arange(8))
    device.watch(600.0)
    for number in range(1, 1200):
        device.mark(number)
    fetched = device.fetch(place, 64)
    assert fetched().view(np.int64).tolist() == list(range(8))
    device.mark(1200)
    device.mark(1201)
    device.synchronize()
    device.watch(0.01)
    fake.queue.append(hang)
    device.mark(1202)
    fetched = device.fetch(place, 64)
    with pytest.raises(DeviceHangError, match="does not answer") as caught:
        fetched()
    assert caught.value.reached == 1201
    with pytest.raises(DeviceHangError):
        device.synchronize()
    before = len(fake.calls)
    device.close()
    assert len(fake.calls) == before, "nothing is asked of a device that hangs"


@pytest.mark.parametrize(("hanging", "reached"), [(0, 1), (1, 2)])
def test_a_graph_that_hangs_tells_its_last_mark(hanging: int, reached: int) -> None:
    fake = driver(hanging=hanging)
    device = DriverDevice(fake)
    device.watch(0.01)
    kernels = load(device)
    kernels.reserve({"T": 8})
    with device.capture() as graph:
        for number in (1, 2):
            device.mark(number)
            kernels.launch("copy", [256, 512], {"T": 8})
        device.mark(3)
    assert len(fake.graphs[0]) == 2, "no launch was added"
    before = len(fake.calls)
    device.replay(graph())
    assert called(fake)[before:] == ["cuGraphLaunch"]
    fake.settle()
    with pytest.raises(DeviceHangError) as caught:
        device.synchronize()
    assert caught.value.reached == reached


def test_without_marks_none_is_reached() -> None:
    fake = driver()
    device = DriverDevice(fake)
    device.watch(0.01)
    fake.queue.append(hang)
    with pytest.raises(DeviceHangError) as caught:
        device.synchronize()
    assert caught.value.reached == 0
