"""A driver that is none but has memory: what a stream is given runs when somebody waits for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.runtime.executors.fake_driver import FakeDriver


def hang() -> None:
    """What a stream that is given this never gets past."""
    raise AssertionError("somebody waits for ever")


@dataclass
class MemoryDriver(FakeDriver):
    """What ``cuda.bindings.driver`` offers to a device that serves.

    Attributes:
        total: bytes of its memory.
        node_bytes: what a launch takes in a graph.
        queue: what the stream has not done.
        blocks: memory that was taken, by its address.
    """

    total: int = 1 << 30
    node_bytes: int = 64
    queue: list[Callable[[], None]] = field(default_factory=list)
    blocks: dict[int, Any] = field(default_factory=dict)
    host: dict[int, Any] = field(default_factory=dict)
    graphs: dict[int, list[Any]] = field(default_factory=dict)
    execs: dict[str, int] = field(default_factory=dict)
    capturing: list[Any] | None = None

    CUresult = SimpleNamespace(CUDA_SUCCESS=0, CUDA_ERROR_OUT_OF_MEMORY=2, CUDA_ERROR_NOT_READY=600)
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="this thread's")

    @property
    def free(self) -> int:
        graphs = sum(self.node_bytes * max(1, count) for count in self.execs.values())
        return self.total - sum(len(one) for one in self.blocks.values()) - graphs

    def _wait(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuDevicePrimaryCtxRetain", "context")

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuDevicePrimaryCtxRelease")

    def cuCtxSetCurrent(self, context: str) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuCtxSetCurrent", given=(context,))

    def cuStreamCreate(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuStreamCreate", 77, given=(flags,))

    def cuStreamDestroy(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuStreamDestroy")

    def cuStreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self._wait()
        return self._answer("cuStreamSynchronize")

    def cuEventCreate(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuEventCreate", [])

    def cuEventDestroy(self, event: list[bool]) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuEventDestroy")

    def cuEventRecord(self, event: list[bool], stream: int) -> tuple[Any, ...]:  # noqa: N802
        event.append(True)
        self.queue.append(event.clear)
        return self._answer("cuEventRecord")

    def cuEventSynchronize(self, event: list[bool]) -> tuple[Any, ...]:  # noqa: N802
        while event:
            self.queue.pop(0)()
        return self._answer("cuEventSynchronize")

    def cuEventQuery(self, event: list[bool]) -> tuple[Any, ...]:  # noqa: N802
        return self._asked("cuEventQuery", lambda: bool(event))

    def cuStreamQuery(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._asked("cuStreamQuery", lambda: bool(self.queue))

    def _asked(self, name: str, waits: Callable[[], bool]) -> tuple[Any, ...]:
        """Whether something has happened; the next thing happens after the question."""
        answer = self._answer(name)
        if not waits() or answer[0]:
            return answer
        if self.queue[0] is not hang:
            self.queue.pop(0)()
        return (600,)

    def cuMemGetInfo(self) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuMemGetInfo", self.free, self.total)

    def cuMemAlloc(self, nbytes: int) -> tuple[Any, ...]:  # noqa: N802
        if nbytes > self.free:
            return (2, None)
        block = np.full(nbytes + 256, 0xFF, np.uint8)
        start = -block.ctypes.data % 256
        part = block[start : start + nbytes]
        self.blocks[part.ctypes.data] = part
        return self._answer("cuMemAlloc", part.ctypes.data, given=(nbytes,))

    def cuMemFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        self._wait()
        del self.blocks[address]
        return self._answer("cuMemFree")

    def cuMemHostAlloc(self, nbytes: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        block = np.zeros(nbytes, np.uint8)
        self.host[block.ctypes.data] = block
        return self._answer("cuMemHostAlloc", block.ctypes.data, given=(nbytes,))

    def cuMemFreeHost(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        del self.host[address]
        return self._answer("cuMemFreeHost")

    def cuMemcpyHtoDAsync(self, to: int, given: int, nbytes: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.queue.append(lambda: ctypes.memmove(to, given, nbytes) and None)
        return self._answer("cuMemcpyHtoDAsync", given=(nbytes, stream))

    def cuMemcpyDtoHAsync(self, to: int, given: int, nbytes: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.queue.append(lambda: ctypes.memmove(to, given, nbytes) and None)
        return self._answer("cuMemcpyDtoHAsync", given=(nbytes, stream))

    def cuMemsetD8Async(self, to: int, byte: int, nbytes: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.queue.append(lambda: ctypes.memset(to, byte, nbytes) and None)
        return self._answer("cuMemsetD8Async", given=(nbytes, stream))

    def cuLaunchKernel(self, handle: str, *rest: Any) -> tuple[Any, ...]:  # noqa: N802
        answer = super().cuLaunchKernel(handle, *rest)
        if self.capturing is not None:
            self.capturing.append(self.launched.pop())
        return answer

    def cuStreamBeginCapture(self, stream: int, mode: str) -> tuple[Any, ...]:  # noqa: N802
        assert self.capturing is None
        self.capturing = []
        return self._answer("cuStreamBeginCapture", given=(stream, mode))

    def cuStreamEndCapture(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert self.capturing is not None
        found, self.capturing = self.capturing, None
        number = len(self.graphs)
        self.graphs[number] = found
        return self._answer("cuStreamEndCapture", number)

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        handle = f"graph {graph}"
        answer = self._answer("cuGraphInstantiate", handle, given=(flags,))
        if answer[0] == 0:
            self.execs[handle] = len(self.graphs[graph])
        return answer

    def cuGraphDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuGraphDestroy", given=(graph,))

    def cuGraphUpload(self, handle: str, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._answer("cuGraphUpload", given=(handle, stream))

    def cuGraphLaunch(self, handle: str, stream: int) -> tuple[Any, ...]:  # noqa: N802
        self.launched += self.graphs[int(handle.split()[1])]
        return self._answer("cuGraphLaunch", given=(handle, stream))

    def cuGraphExecDestroy(self, handle: str) -> tuple[Any, ...]:  # noqa: N802
        del self.execs[handle]
        return self._answer("cuGraphExecDestroy", given=(handle,))
