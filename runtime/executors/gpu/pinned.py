"""Bytes on their way between the host and a GPU, through memory that the GPU can reach by itself.

A copy of pageable memory makes the host wait for the device. So bytes are put into one of several
pinned buffers, and the copy from there is given to the stream; a buffer is used again when its last
copy is finished, which by then it most often is.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from .cubins import checked
from .patience import Patience

Bytes = npt.NDArray[np.uint8]

# Of each buffer, and how many there are: a step's inputs fit into one, and eight steps may be
# under way; weights go through all of them in turn.
BUFFER_BYTES, BUFFERS = 1 << 20, 8
# So many results may be on their way at once: two of each of two steps.
FETCHES = 4
# Places for what may be larger than a buffer and is not copied on: the rows of two steps.
LANDINGS = 2


class _Fetch:
    """Bytes on their way from the device into a buffer."""

    def __init__(self, wait: Callable[[], None], buffer: Bytes) -> None:
        self._wait = wait
        self._buffer = buffer
        self._found: Bytes | None = None

    def __call__(self) -> Bytes:
        """The bytes, once they are here; the buffer may be used again then."""
        if self._found is None:
            self._wait()
            self._found = self._buffer.copy()
        return self._found


class Pinned:
    """Copies to and from a device, on one stream.

    Args:
        driver: such as ``open_driver`` gives; its context is current.
        stream: of that driver.
        patience: how long the device is waited for.

    Attributes:
        written_bytes: so many went to the device.

    Raises:
        MachineError: there is no pinned memory.
    """

    def __init__(self, driver: Any, stream: Any, patience: Patience | None = None) -> None:
        self._patience = patience or Patience(driver)
        self._driver = driver
        self._stream = stream
        self._next = 0
        self.written_bytes = 0
        self._events: list[Any] = []
        self._taken: list[int] = []
        count = BUFFERS + 1 + FETCHES
        whole = self._take(BUFFER_BYTES * count)
        self._buffers = [whole[n * BUFFER_BYTES :][:BUFFER_BYTES] for n in range(count)]
        untimed = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        self._fetches: deque[_Fetch] = deque()
        self._fetched = 0
        self._landings: list[Bytes] = [np.zeros(0, np.uint8)] * LANDINGS
        self._landed = 0
        for _ in range(BUFFERS + FETCHES + LANDINGS):
            made = driver.cuEventCreate(int(untimed))
            self._events.append(checked(driver, "an event", made))

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        """Put an array's bytes on the device; it may change afterwards."""
        given = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        for start in range(0, len(given), BUFFER_BYTES):
            self._write_part(address + start, given[start : start + BUFFER_BYTES])

    def _write_part(self, address: int, part: Bytes) -> None:
        driver, place = self._driver, self._next
        self._next = (place + 1) % BUFFERS
        # An event that was never recorded is one that happened.
        self._patience.event("an earlier copy", self._events[place])
        buffer = self._buffers[place]
        buffer[: len(part)] = part
        self.written_bytes += len(part)
        answer = driver.cuMemcpyHtoDAsync(address, buffer.ctypes.data, len(part), self._stream)
        checked(driver, "a copy to the device", answer)
        answer = driver.cuEventRecord(self._events[place], self._stream)
        checked(driver, "recording an event", answer)

    def read(self, address: int, nbytes: int) -> Bytes:
        """A copy of bytes of the device, once all before on the stream is finished."""
        found = np.empty(nbytes, dtype=np.uint8)
        buffer = self._buffers[BUFFERS]
        for start in range(0, nbytes, BUFFER_BYTES):
            count = min(BUFFER_BYTES, nbytes - start)
            answer = self._driver.cuMemcpyDtoHAsync(
                buffer.ctypes.data, address + start, count, self._stream
            )
            checked(self._driver, "a copy from the device", answer)
            self._patience.stream("what ran before", self._stream)
            found[start : start + count] = buffer[:count]
        return found

    def fetch(self, address: int, nbytes: int) -> Callable[[], Bytes]:
        """A copy of bytes of the device as they are after all before on the stream.

        Calling the answer waits for them. What does not fit a buffer is waited for at once.
        """
        if nbytes > BUFFER_BYTES:
            found = self.read(address, nbytes)
            return lambda: found
        if len(self._fetches) == FETCHES:
            self._fetches.popleft()()  # its buffer is the next one
        driver, place = self._driver, self._fetched % FETCHES
        self._fetched += 1
        event = self._events[BUFFERS + place]
        buffer = self._buffers[BUFFERS + 1 + place][:nbytes]
        answer = driver.cuMemcpyDtoHAsync(buffer.ctypes.data, address, nbytes, self._stream)
        checked(driver, "a copy from the device", answer)
        checked(driver, "recording an event", driver.cuEventRecord(event, self._stream))
        wait = partial(self._patience.event, "what ran before", event)
        self._fetches.append(_Fetch(wait, buffer))
        return self._fetches[-1]

    def land(self, address: int, nbytes: int) -> Callable[[], Bytes]:
        """Bytes of the device as they are after all before on the stream, where they arrive.

        Calling the answer waits for them, and copies nothing: the landing after the next one
        overwrites them. What is larger than any before takes more memory, for good.

        Raises:
            MachineError: there is no pinned memory.
        """
        driver, place = self._driver, self._landed % LANDINGS
        self._landed += 1
        event = self._events[BUFFERS + FETCHES + place]
        self._patience.event("an earlier copy", event)
        if nbytes > len(self._landings[place]):
            # The old place stays, for whoever still looks at it.
            self._landings[place] = self._take(1 << (nbytes - 1).bit_length())
        part = self._landings[place][:nbytes]
        if nbytes:
            answer = driver.cuMemcpyDtoHAsync(part.ctypes.data, address, nbytes, self._stream)
            checked(driver, "a copy from the device", answer)
        checked(driver, "recording an event", driver.cuEventRecord(event, self._stream))

        def landed() -> Bytes:
            self._patience.event("what ran before", event)
            return part

        return landed

    def _take(self, nbytes: int) -> Bytes:
        """Memory that the device reaches."""
        answer = self._driver.cuMemHostAlloc(nbytes, 0)
        self._taken.append(int(checked(self._driver, "pinned memory", answer)))
        raw = (ctypes.c_uint8 * nbytes).from_address(self._taken[-1])
        return np.ctypeslib.as_array(raw)

    def close(self) -> None:
        """Give the memory back; the stream has nothing left to do."""
        events, self._events = self._events, []
        self._buffers, self._landings = [], []
        self._fetches.clear()
        for event in events:
            self._driver.cuEventDestroy(event)
        taken, self._taken = self._taken, []
        for address in taken:
            self._driver.cuMemFreeHost(address)
