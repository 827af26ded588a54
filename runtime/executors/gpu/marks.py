"""Where a stream is, known to the host without a call: numbers in memory that both can reach.

before:  numbers, left among what a stream is given, or within a graph that is being captured
after:   the number that the device left last, also when it does not answer any more

A stream that is not captured writes a number in its turn. In a graph a node does, which comes after
what was captured before it and after the mark before it, and before nothing: no kernel waits for
it, and edges between kernels stay what they are. The front end of the device writes, and not a
kernel, so it needs no room beside a kernel that hangs.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from .cubins import checked

WORD_BYTES = 4


class Marks:
    """The marks of one stream.

    Args:
        driver: such as ``open_driver`` gives.
        context: of the device; current.
        stream: of that context.

    Raises:
        MachineError: there is no pinned memory.
    """

    def __init__(self, driver: Any, context: Any, stream: Any) -> None:
        self._driver = driver
        self._context = context
        self._stream = stream
        # The node of the mark before, in the capture that is under way.
        self._before: list[Any] = []
        mapped = driver.CU_MEMHOSTALLOC_DEVICEMAP
        self._address = int(
            checked(driver, "pinned memory", driver.cuMemHostAlloc(WORD_BYTES, mapped))
        )
        place = driver.cuMemHostGetDevicePointer(self._address, 0)
        self._place = int(checked(driver, "the device's address of pinned memory", place))
        word = (ctypes.c_uint32 * 1).from_address(self._address)
        self._word = np.ctypeslib.as_array(word)
        self._word[0] = 0

    @property
    def reached(self) -> int:
        """The number that was left last; 0 for none."""
        return int(self._word[0])

    def leave(self, number: int) -> None:
        """Let the stream say a number when all before is finished.

        Raises:
            MachineError: this driver cannot.
        """
        answer = self._driver.cuStreamWriteValue32(self._stream, self._place, number, 0)
        checked(self._driver, "a mark in a stream", answer)

    def begin_capture(self) -> None:
        """The next capture begins: its marks have none before them."""
        self._before = []

    def leave_captured(self, number: int) -> None:
        """Let each replay say a number when all that was captured so far is finished.

        Raises:
            MachineError: this driver cannot; the capture goes on.
        """
        driver = self._driver
        asked = driver.cuStreamGetCaptureInfo(self._stream)
        checked(driver, "what is captured", asked)
        graph, after = asked[3], [*(asked[4] or ()), *self._before]
        answer = driver.cuGraphAddBatchMemOpNode(graph, after, len(after), self._write(number))
        self._before = [checked(driver, "a mark in a graph", answer)]

    def _write(self, number: int) -> Any:
        """What a node is that writes a number."""
        driver = self._driver
        kind = driver.CUstreamBatchMemOpType.CU_STREAM_MEM_OP_WRITE_VALUE_32
        operation = driver.CUstreamBatchMemOpParams()
        operation.operation = operation.writeValue.operation = kind
        operation.writeValue.address, operation.writeValue.value = self._place, number
        node = driver.CUDA_BATCH_MEM_OP_NODE_PARAMS()
        node.ctx, node.count, node.paramArray = self._context, 1, [operation]
        return node

    def close(self) -> None:
        """Give the memory back; nothing writes there any more. May be called twice."""
        if self._address:
            self._driver.cuMemFreeHost(self._address)
        self._address = 0
