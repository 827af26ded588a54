"""A driver that is none: it records what it is asked, and reads a launch's arguments back."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from graphopt.runtime.executors.gpu.cubins import Order


@dataclass
class FakeDriver:
    """What ``cuda.bindings.driver`` offers, as far as launching needs it.

    Attributes:
        arch: of its only device.
        signatures: of each function, by its name: ``p`` for a pointer, ``i`` for a size.
        failing: calls that answer with an error.
        calls: names of calls, in order, and what they were given.
        launched: function, grid, threads, shared bytes, stream and arguments of each launch.
        early: functions that were launched before what came before them was over.
    """

    arch: int = 90
    devices: int = 1
    signatures: dict[str, str] = field(default_factory=dict)
    failing: frozenset[str] = frozenset()
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    launched: list[tuple[Any, ...]] = field(default_factory=list)
    early: list[str] = field(default_factory=list)

    CUresult = SimpleNamespace(CUDA_SUCCESS=0)
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
    CUlaunchAttributeID = SimpleNamespace(
        CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION="programmatic"
    )
    CUlaunchConfig = SimpleNamespace
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
    )

    def _answer(self, name: str, *rest: Any, given: Sequence[Any] = ()) -> tuple[Any, ...]:
        self.calls.append((name, *given))
        return (700, *(None for _ in rest)) if name in self.failing else (0, *rest)

    def CUstream(self, stream: int) -> int:  # noqa: N802
        return stream

    def cuInit(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuInit")

    def cuGetErrorString(self, status: int) -> tuple[int, bytes]:  # noqa: N802
        return 0, b"an illegal memory access was encountered"

    def cuDeviceGetCount(self) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuDeviceGetCount", self.devices)

    def cuDeviceGet(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuDeviceGet", device)

    def cuDeviceGetAttribute(self, name: str, device: int) -> tuple[Any, ...]:  # noqa: N802
        number = self.arch // 10 if name == "major" else self.arch % 10
        return self._answer("cuDeviceGetAttribute", number)

    def cuModuleLoadData(self, code: bytes) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuModuleLoadData", f"module of {code.decode()}", given=(code,))

    def cuModuleGetFunction(self, module: str, name: bytes) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuModuleGetFunction", name.decode(), given=(module, name))

    def cuFuncSetAttribute(self, handle: str, what: int, value: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuFuncSetAttribute", given=(handle, what, value))

    def cuModuleUnload(self, module: str) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuModuleUnload", given=(module,))

    def CUlaunchAttribute(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(value=SimpleNamespace())

    def cuLaunchKernelEx(self, config: Any, handle: str, address: int, extra: int) -> Any:  # noqa: N802
        assert config.numAttrs == len(config.attrs) == 1
        assert config.attrs[0].id == "programmatic"
        assert config.attrs[0].value.programmaticStreamSerializationAllowed == 1
        grid = config.gridDimX, config.gridDimY, config.gridDimZ
        block = config.blockDimX, config.blockDimY, config.blockDimZ
        self.early.append(handle)
        return self.cuLaunchKernel(
            handle, *grid, *block, config.sharedMemBytes, config.hStream, address, extra
        )

    def cuLaunchKernel(self, handle: str, *rest: Any) -> tuple[Any, ...]:  # noqa: N802
        x, y, z, threads, _, _, shared, stream, address, extra = rest
        assert extra == 0
        types = self.signatures[handle]
        places = (ctypes.c_void_p * len(types)).from_address(address)
        given = []
        for place, kind in zip(places, types, strict=True):
            assert place is not None
            if kind == "p":
                given.append(ctypes.c_void_p.from_address(place).value or 0)
            else:
                given.append(ctypes.c_int32.from_address(place).value)
        self.launched.append((handle, (x, y, z), threads, shared, stream, given))
        return self._answer("cuLaunchKernel")


@dataclass
class FakeMemory:
    """Addresses that nobody reads."""

    stream: int = 77
    next: int = 1 << 20
    taken: list[int] = field(default_factory=list)
    order: Order = field(default_factory=Order)

    def zeros(self, nbytes: int) -> int:
        self.taken.append(nbytes)
        address, self.next = self.next, self.next + (nbytes + 511) // 256 * 256
        return address

    def current_stream(self) -> int:
        return self.stream
