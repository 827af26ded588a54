"""Kernels are found before they run, and launched with what the compiler wrote; no GPU is here."""

from __future__ import annotations

import enum
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from graphopt.errors import ArtifactError, DeviceLostError, MachineError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.launch import Launch, LaunchKernel, LaunchVariant
from graphopt.runtime.executors.gpu.cubins import (
    KernelSet,
    Order,
    check_arch,
    checked,
    demand_device,
    device_arch,
    open_driver,
)
from tests.runtime.executors.gpu.fake_driver import FakeDriver, FakeMemory
from tests.runtime.executors.imported import heavy_imports
from tests.runtime.fakes import small_plan

T = sym("T")
FEW = Launch("0.cubin", "norm_few", {}, (T, 2, 1), 4, 3, 128, 0, 0, 1, 32, 0, 16)
MANY = Launch(
    "1.cubin", "norm_many", {}, ((T + 63) // 64, 1, 1), 8, 3, 256, 99 << 10, 200, 128, 99, 0, 2
)
AFTER = replace(FEW, file="1.cubin", symbol="norm_after", grid=(1, 1, 1), threads=32)
KERNEL = LaunchKernel(
    "norm",
    "sm_90",
    (DType.BF16, DType.BF16, None),
    ("S", "T"),
    4 * T,
    (LaunchVariant({"T": 16}, (FEW,)), LaunchVariant({}, (MANY, AFTER))),
)
# Two operands, the workspace, two sizes, Triton's own.
SIGNATURE = "pppiipp"


def driver(**changes: Any) -> FakeDriver:
    names = ("norm_few", "norm_many", "norm_after")
    return FakeDriver(signatures=dict.fromkeys(names, SIGNATURE), **changes)


def kernel_set(fake: FakeDriver, memory: FakeMemory, kernel: LaunchKernel = KERNEL) -> KernelSet:
    return KernelSet(
        {kernel.name: kernel}, lambda name, file: f"{name}/{file}".encode(), fake, memory
    )


def test_everything_is_found_before_the_first_launch() -> None:
    fake, memory = driver(), FakeMemory()
    kernels = kernel_set(fake, memory)
    found = list(fake.calls)
    assert found == [
        ("cuModuleLoadData", b"norm/0.cubin"),
        ("cuModuleGetFunction", "module of norm/0.cubin", b"norm_few"),
        ("cuModuleLoadData", b"norm/1.cubin"),
        ("cuModuleGetFunction", "module of norm/1.cubin", b"norm_many"),
        ("cuFuncSetAttribute", "norm_many", 8, 99 << 10),
        ("cuModuleGetFunction", "module of norm/1.cubin", b"norm_after"),
    ]
    kernels.reserve({"T": 100, "S": 4})
    kernels.launch("norm", [0x1000, 0x2000], {"T": 3, "S": 1})
    assert fake.calls[len(found) :] == [("cuLaunchKernel",)]


class LoadingDriver(FakeDriver):
    """A driver that loads a function when it is told to; an old one's bindings refuse."""

    is_old = False

    def cuFuncLoad(self, handle: str) -> tuple[Any, ...]:  # noqa: N802
        if self.is_old:
            raise RuntimeError("Function cuFuncLoad not found")
        return self._answer("cuFuncLoad", given=(handle,))


def test_functions_are_loaded_before_a_capture_launches_them() -> None:
    fake = LoadingDriver()
    kernel_set(fake, FakeMemory())
    loaded = [given for name, *given in fake.calls if name == "cuFuncLoad"]
    assert loaded == [["norm_few"], ["norm_many"], ["norm_after"]]
    failing = LoadingDriver(failing=frozenset({"cuFuncLoad"}))
    with pytest.raises(MachineError, match="loading norm_few"):
        kernel_set(failing, FakeMemory())
    old = LoadingDriver()
    old.is_old = True
    kernel_set(old, FakeMemory())
    assert ("cuFuncLoad", "norm_few") not in old.calls


def test_a_launch_is_what_the_compiler_wrote() -> None:
    fake, memory = driver(), FakeMemory()
    kernels = kernel_set(fake, memory)
    kernels.reserve({"T": 100, "S": 4})
    workspace, descriptors = 1 << 20, (1 << 20) + 768
    kernels.launch("norm", [0x1000, 0x2000], {"T": 3, "S": 1})
    kernels.launch("norm", [0x3000, 0x4000], {"T": 100, "S": 2}, stream=5)
    assert fake.launched == [
        ("norm_few", (3, 2, 1), 128, 0, 77, [0x1000, 0x2000, workspace, 1, 3, 0, 0]),
        (
            "norm_many",
            (2, 1, 1),
            256,
            99 << 10,
            5,
            [0x3000, 0x4000, workspace, 2, 100, descriptors, 0],
        ),
        ("norm_after", (1, 1, 1), 32, 0, 5, [0x3000, 0x4000, workspace, 2, 100, 0, 0]),
    ]


def test_memory_is_taken_once_for_the_largest_step() -> None:
    fake, memory = driver(), FakeMemory()
    kernels = kernel_set(fake, memory)
    assert kernels.workspace_bytes({"T": 100, "S": 1}) == 400
    kernels.reserve({"T": 100, "S": 4})
    assert memory.taken == [400, 2 * 200 + 128]
    for tokens in (1, 17, 100):
        kernels.reserve({"T": tokens, "S": 1})
        kernels.launch("norm", [0x1000, 0x2000], {"T": tokens, "S": 1})
    assert len(memory.taken) == 2
    addresses = {given[2] for *_, given in fake.launched}
    assert len(addresses) == 1, "the workspace stays where it is"
    with pytest.raises(UsageError, match="larger workspace"):
        kernels.launch("norm", [0x1000, 0x2000], {"T": 101, "S": 1})


def test_descriptors_are_aligned() -> None:
    fake, memory = driver(), FakeMemory(next=(1 << 20) + 64)
    kernels = kernel_set(fake, memory)
    kernels.reserve({"T": 100, "S": 4})
    kernels.launch("norm", [0x1000, 0x2000], {"T": 100, "S": 1})
    assert fake.launched[0][-1][-2] % 128 == 0
    assert fake.launched[0][-1][-2] > 0


def test_a_step_without_rows_launches_nothing() -> None:
    fake, memory = driver(), FakeMemory()
    kernels = kernel_set(fake, memory)
    kernels.launch("norm", [0x1000, 0x2000], {"T": 0, "S": 0})
    assert fake.launched == []


@pytest.mark.parametrize(
    ("name", "pointers", "sizes", "what"),
    [
        ("other", [16, 32], {"T": 1, "S": 1}, "no such kernel"),
        ("norm", [16], {"T": 1, "S": 1}, "another number of pointers"),
        ("norm", [16, 32, 48], {"T": 1, "S": 1}, "another number of pointers"),
        ("norm", [16, 40], {"T": 1, "S": 1}, "not aligned"),
        ("norm", [16, 32], {"T": 1, "S": 2**31}, "does not fit 32 bits"),
        ("norm", [16, 32], {"T": 1, "S": -1}, "does not fit 32 bits"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    name: str, pointers: list[int], sizes: dict[str, int], what: str
) -> None:
    fake, memory = driver(), FakeMemory()
    kernels = kernel_set(fake, memory)
    kernels.reserve({"T": 16, "S": 1})
    with pytest.raises(UsageError, match=what):
        kernels.launch(name, pointers, sizes)
    assert fake.launched == []


def test_too_many_programs_are_refused() -> None:
    fake, memory = driver(), FakeMemory()
    tall = replace(FEW, grid=(1, 70000, 1))
    kernel = replace(KERNEL, workspace=0, variants=(LaunchVariant({}, (tall,)),))
    kernels = kernel_set(fake, memory, kernel)
    with pytest.raises(UsageError, match="too many programs"):
        kernels.launch("norm", [16, 32], {"T": 1, "S": 1})


@pytest.mark.parametrize(
    ("call", "error", "what"),
    [
        ("cuModuleLoadData", MachineError, "refuses loading norm/0.cubin"),
        ("cuModuleGetFunction", ArtifactError, "lacks its function"),
        ("cuFuncSetAttribute", MachineError, "shared bytes"),
    ],
)
def test_what_cannot_be_loaded_is_given_back(call: str, error: type[Exception], what: str) -> None:
    fake = driver(failing=frozenset({call}))
    with pytest.raises(error, match=what):
        kernel_set(fake, FakeMemory())
    loaded = sum(name == "cuModuleLoadData" for name, *_ in fake.calls) - (
        call == "cuModuleLoadData"
    )
    assert sum(name == "cuModuleUnload" for name, *_ in fake.calls) == loaded


def test_a_refused_launch_says_what_the_driver_says() -> None:
    fake, memory = driver(failing=frozenset({"cuLaunchKernel"})), FakeMemory()
    kernels = kernel_set(fake, memory)
    kernels.reserve({"T": 16, "S": 1})
    with pytest.raises(MachineError, match="cuLaunchKernel of norm_few") as caught:
        kernels.launch("norm", [16, 32], {"T": 1, "S": 1})
    assert "illegal memory access" in str(caught.value.got)


def test_it_is_closed_once() -> None:
    fake = driver()
    kernels = kernel_set(fake, FakeMemory())
    kernels.close()
    kernels.close()
    assert [name for name, *_ in fake.calls].count("cuModuleUnload") == 2
    with pytest.raises(UsageError, match="no such kernel"):
        kernels.launch("norm", [16, 32], {"T": 1, "S": 1})


@pytest.mark.parametrize(
    ("here", "arch", "runs"),
    [
        (90, "sm_90", True),
        (80, "sm_80", True),
        (86, "sm_80", True),
        (89, "sm_86", True),
        (80, "sm_86", False),
        (90, "sm_80", False),
        (103, "sm_100", False),
        (120, "sm_90", False),
    ],
)
def test_cubins_run_on_later_devices_of_a_generation(here: int, arch: str, runs: bool) -> None:
    fake = driver(arch=here)
    assert device_arch(fake) == f"sm_{here}"
    if runs:
        check_arch(fake, arch)
        return
    with pytest.raises(ArtifactError, match="no kernels for this GPU") as caught:
        check_arch(fake, arch)
    assert f"cuda:sm_{here}" in str(caught.value.next)


def as_bindings(monkeypatch: pytest.MonkeyPatch, fake: object) -> None:
    bindings = ModuleType("cuda.bindings")
    bindings.driver = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)


def test_without_bindings_a_driver_or_a_device_it_says_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MachineError, match="none here") as caught:
        open_driver()
    assert caught.value.next == "pip install cuda-bindings"
    for fake, what in (
        (driver(failing=frozenset({"cuInit"})), "the driver answers 700"),
        (driver(devices=0), "a driver without devices"),
    ):
        as_bindings(monkeypatch, fake)
        with pytest.raises(MachineError, match="none here") as caught:
            open_driver()
        assert what in str(caught.value.got)


def test_a_missing_library_is_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLibrary(FakeDriver):
        def cuInit(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
            raise RuntimeError("libcuda.so.1: cannot open shared object file")

    as_bindings(monkeypatch, NoLibrary())
    with pytest.raises(MachineError, match="none here") as caught:
        open_driver()
    assert "libcuda.so.1" in str(caught.value.got)


def test_a_plan_for_a_gpu_demands_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan()
    demand_device(plan)
    as_bindings(monkeypatch, driver(arch=80))
    demand_device(replace(plan, target="cuda:sm_80"))
    with pytest.raises(ArtifactError, match="no kernels for this GPU"):
        demand_device(replace(plan, target="cuda:sm_90"))


def test_it_imports_neither_triton_nor_pytorch() -> None:
    assert heavy_imports("graphopt.runtime.executors.gpu.cubins") == []


def test_what_the_library_computes_is_not_launched() -> None:
    fake, memory = driver(), FakeMemory()
    few, many = KERNEL.variants
    library = replace(few, below={"T": 512}, launches=(), library=True)
    kernels = kernel_set(fake, memory, replace(KERNEL, variants=(few, library, many)))
    kernels.reserve({"T": 600, "S": 4})
    kernels.launch("norm", [0x1000, 0x2000], {"T": 3, "S": 1})
    kernels.launch("norm", [0x1000, 0x2000], {"T": 600, "S": 1})
    launched = list(fake.launched)
    with pytest.raises(UsageError, match="PyTorch computes steps of these sizes") as caught:
        kernels.launch("norm", [0x1000, 0x2000], {"T": 17, "S": 1})
    assert caught.value.where == "norm, T<=512"
    assert caught.value.got == "S=1, T=17"
    assert fake.launched == launched


def test_what_kernels_keep_is_told() -> None:
    fake, memory = driver(), FakeMemory()
    kernels = kernel_set(fake, memory)
    assert kernels.workspaces() == {}
    kernels.reserve({"T": 100, "S": 4})
    kept = {"the workspace of norm": 1 << 20, "descriptors of norm": (1 << 20) + 768}
    assert kernels.workspaces() == kept


def test_a_kernel_that_waits_itself_follows_another_such_early() -> None:
    few, many = KERNEL.variants
    early = replace(few, launches=tuple(replace(one, dependent=True) for one in few.launches))
    both = replace(many, launches=tuple(replace(one, dependent=True) for one in many.launches))
    answers = []
    for kernel in (KERNEL, replace(KERNEL, variants=(early, many))):
        fake, memory = driver(), FakeMemory()
        kernels = kernel_set(fake, memory, kernel)
        kernels.reserve({"S": 2, "T": 100})
        for tokens in (9, 9, 100, 9, 9):
            kernels.launch("norm", [1 << 10, 1 << 11], {"S": 2, "T": tokens})
        answers.append((fake.launched, fake.early))
    (plain, none), (other, first) = answers
    assert plain == other  # all else is the same
    # Not the first of all, and not the first after one that does not wait.
    assert (none, first) == ([], ["norm_few"] * 2)
    fake = driver()
    kernels = kernel_set(fake, FakeMemory(), replace(KERNEL, variants=(early, both)))
    kernels.reserve({"S": 2, "T": 100})
    kernels.launch("norm", [1 << 10, 1 << 11], {"S": 2, "T": 100})
    assert fake.early == ["norm_after"]  # what comes next of the same kernel


def test_what_a_stream_was_given_last_decides_whether_a_kernel_begins_early() -> None:
    order = Order()
    assert not order.kernel(7, dependent=True)
    assert order.kernel(7, dependent=True)
    assert not order.kernel(8, dependent=True)  # another stream
    assert order.kernel(8, dependent=True)
    order.other()
    assert not order.kernel(8, dependent=True)
    assert not order.kernel(8, dependent=False)
    assert not order.kernel(8, dependent=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CUDA_ERROR_ILLEGAL_ADDRESS", DeviceLostError),
        ("CUDA_ERROR_INVALID_VALUE", MachineError),
        ("CUDA_ERROR_OUT_OF_MEMORY", MachineError),
    ],
)
def test_a_kernel_that_breaks_loses_the_device(name: str, kind: type[MachineError]) -> None:
    status = enum.Enum("CUresult", [name, "CUDA_SUCCESS"])
    driver = SimpleNamespace(CUresult=status)
    with pytest.raises(MachineError, match="waiting") as found:
        checked(driver, "waiting", (status[name],))
    assert type(found.value) is kind
