"""Launching: cubins through a driver that records, and memory as kernels take it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.gpu import launch, shipping
from benchmarks.gpu.case import AbsentError
from benchmarks.gpu.launch import Cubins, seen_as, with_workspace
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.codegen.triton.worker import Built
from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from tests.runtime.executors.gpu.fake_driver import FakeDriver, FakeMemory

T = sym("T")
BUILT = Built(b"", "", 32, 0, 0, 1, 0, 0, 1, 0, 0, False, ())
SECOND = Variant("sum", {"BLOCK": 32}, (4,), num_warps=2)
FIRST = Variant("parts", {"BLOCK": 16}, ((T + 15) // 16, 2), {"T": 64}, 8, 4, (SECOND,))
KERNEL = TritonKernel(
    "k", "", (DType.BF16, DType.F32, None), ("T",), (FIRST, Variant("sum")), T * 8
)


def fake_build(kernel: TritonKernel, launch: Variant, arch: int) -> Built:
    return replace(
        BUILT,
        code=launch.function.encode(),
        symbol=launch.function,
        threads=32 * launch.num_warps,
        shared_bytes=100 * launch.num_warps,
    )


def test_all_launches_of_a_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "build", fake_build)
    driver = FakeDriver(signatures={"parts": "pppipp", "sum": "pppipp"})
    memory = FakeMemory()
    x, y = torch.zeros(40, dtype=torch.bfloat16), torch.zeros(40)
    given = with_workspace(KERNEL, [x, y], {"T": 40})
    run = Cubins(90, driver, lambda: memory).prepare(KERNEL, FIRST, given, {"T": 40})
    assert not driver.launched
    run()
    run()
    assert len(driver.launched) == 4
    (name, grid, threads, shared, stream, arguments), (other, *rest) = driver.launched[:2]
    assert (name, grid, threads, shared, stream) == ("parts", (3, 2, 1), 256, 800, 77)
    assert arguments[:2] == [x.data_ptr(), y.data_ptr()]
    assert arguments[3] == 40
    assert memory.taken == [320]
    assert (other, rest[0]) == ("sum", (4, 1, 1))


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise MachineError("no device", got="no driver")

    monkeypatch.setattr(launch, "open_driver", none)
    with pytest.raises(AbsentError, match="no device: no driver"):
        Cubins(90)


def test_memory_as_the_kernel_takes_it() -> None:
    bits = torch.zeros(8, dtype=torch.uint8)
    assert seen_as(bits, torch.int8).data_ptr() == bits.data_ptr()
    first, second, workspace = with_workspace(
        KERNEL, [torch.zeros(4, dtype=torch.int16), torch.zeros(4)], {"T": 3}
    )
    assert first.dtype is torch.bfloat16
    assert second.dtype is torch.float32
    assert workspace.dtype is torch.uint8
    assert len(workspace) == 24
    assert not workspace.any()
