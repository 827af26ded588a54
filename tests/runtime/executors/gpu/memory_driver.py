"""A driver that is none but has memory: what a stream is given runs when somebody waits for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.runtime.executors.gpu.fake_driver import FakeDriver


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
        hanging: the number of the launch that does not end in a graph; -1 if all do.
        marks: writes of each graph that no launch waits for, with what comes before them: launches
            by their number, then other writes by theirs.
    """

    total: int = 1 << 30
    node_bytes: int = 64
    queue: list[Callable[[], None]] = field(default_factory=list)
    blocks: dict[int, Any] = field(default_factory=dict)
    host: dict[int, Any] = field(default_factory=dict)
    graphs: dict[int, list[Any]] = field(default_factory=dict)
    execs: dict[str, int] = field(default_factory=dict)
    capturing: list[Any] | None = None
    hanging: int = -1
    marks: dict[int, list[tuple[list[tuple[str, int]], Any]]] = field(default_factory=dict)

    CUresult = SimpleNamespace(CUDA_SUCCESS=0, CUDA_ERROR_OUT_OF_MEMORY=2, CUDA_ERROR_NOT_READY=600)
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)
    CU_MEMHOSTALLOC_DEVICEMAP = 2
    CUstreamBatchMemOpType = SimpleNamespace(CU_STREAM_MEM_OP_WRITE_VALUE_32="write 4 bytes")
    CUDA_BATCH_MEM_OP_NODE_PARAMS = SimpleNamespace
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="this thread's")

    @property
    def free(self) -> int:
        graphs = sum(self.node_bytes * max(1, count) for count in self.execs.values())
        return self.total - sum(len(one) for one in self.blocks.values()) - graphs

    def settle(self) -> None:
        """Let the stream go on as far as it does."""
        while self.queue and self.queue[0] is not hang:
            self.queue.pop(0)()

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

    def cuMemHostGetDevicePointer(self, address: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert address in self.host
        assert flags == 0
        return self._answer("cuMemHostGetDevicePointer", address)

    def cuStreamWriteValue32(self, stream: int, to: int, value: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert self.capturing is None
        self.queue.append(lambda: self._put(to, value))
        return self._answer("cuStreamWriteValue32", given=(stream, value))

    @staticmethod
    def _put(to: int, value: int) -> None:
        ctypes.c_uint32.from_address(to).value = value

    def CUstreamBatchMemOpParams(self) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(writeValue=SimpleNamespace())

    def cuStreamGetCaptureInfo(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        assert self.capturing is not None
        before = [("launch", len(self.capturing) - 1)] if self.capturing else []
        number = len(self.graphs)
        return self._answer("cuStreamGetCaptureInfo", "active", 1, number, before, [], len(before))

    def cuGraphAddBatchMemOpNode(  # noqa: N802
        self, graph: int, before: list[tuple[str, int]], count: int, node: Any
    ) -> tuple[Any, ...]:
        assert graph == len(self.graphs), "the graph that is being captured"
        assert count == len(before) == len(set(before))
        assert node.ctx == "context"
        assert node.count == len(node.paramArray) == 1
        made = self.marks.setdefault(graph, [])
        answer = self._answer("cuGraphAddBatchMemOpNode", ("mark", len(made)))
        if answer[0] == 0:
            assert all(n < len(made) for kind, n in before if kind == "mark")
            assert node.paramArray[0].operation == node.paramArray[0].writeValue.operation
            assert node.paramArray[0].operation == "write 4 bytes"
            made.append((before, node.paramArray[0].writeValue))
        return answer

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
        number = int(handle.split()[1])
        self.launched += self.graphs[number]
        self._run(number)
        return self._answer("cuGraphLaunch", given=(handle, stream))

    def _run(self, number: int) -> None:
        """Launches in their order, and each write as soon as what is before it has ended."""
        left, ended = list(enumerate(self.marks.get(number, []))), set()
        for place in range(-1, len(self.graphs[number])):
            if place == self.hanging >= 0:
                self.queue.append(hang)
            ended.add(("launch", place))
            while left and ended.issuperset(left[0][1][0]):
                mark, (_, write) = left.pop(0)
                self.queue.append(partial(self._put, write.address, write.value))
                ended.add(("mark", mark))
        assert left == [], "a write that waits for nothing that there is"

    def cuGraphExecDestroy(self, handle: str) -> tuple[Any, ...]:  # noqa: N802
        del self.execs[handle]
        return self._answer("cuGraphExecDestroy", given=(handle,))
