"""An NVIDIA GPU through its driver alone: the device that serves.

The device's primary context is used, which PyTorch uses too, so that a step that PyTorch runs finds
the same memory. Everything goes to one stream that does not wait for the default one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy.typing as npt

from graphopt.errors import MachineError, UsageError
from graphopt.launch import LaunchKernel

from .cubins import KernelSet, Order, check_arch, checked, device_arch, open_driver
from .device import Bytes, DeviceMemoryError, Graph
from .marks import Marks
from .patience import Patience
from .pinned import Pinned


@dataclass(slots=True)
class _Graph:
    """A captured graph, ready to be launched.

    Attributes:
        handle: of the driver; None once it is given back.
    """

    handle: Any


class DriverDevice:
    """The first GPU of this machine.

    Args:
        driver: the module ``cuda.bindings.driver``; opened if None.

    Raises:
        MachineError: there is no GPU, or it refuses.
    """

    def __init__(self, driver: Any = None) -> None:
        self._driver = open_driver() if driver is None else driver
        self._thread = 0
        self._capturing = False
        self._taken: set[int] = set()
        self._graphs: list[_Graph] = []
        self._kernels: list[KernelSet] = []
        self._handle = self._call("cuDeviceGet", 0)
        self._arch = device_arch(self._driver)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._handle)
        self.attach()
        flags = int(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._stream = self._call("cuStreamCreate", flags)
        self._patience = Patience(self._driver)
        self._marks = Marks(self._driver, self._context, self._stream)
        self._patience.reached = lambda: self._marks.reached
        self._pinned = Pinned(self._driver, self._stream, self._patience)
        self._order = Order()
        self._closed = False

    @property
    def arch(self) -> str:
        """Its architecture, such as ``sm_90``."""
        return self._arch

    @property
    def stream(self) -> int:
        """The stream, as PyTorch takes it."""
        return int(self._stream)

    @property
    def copied_bytes(self) -> int:
        """Bytes that were copied there from the host so far."""
        return self._pinned.written_bytes

    def attach(self) -> None:
        """Make the device the calling thread's own."""
        here = threading.get_ident()
        if here != self._thread:
            self._call("cuCtxSetCurrent", self._context)
            self._thread = here

    def memory(self) -> tuple[int, int]:
        """Bytes that are free now, whoever took the others, and bytes in all."""
        status, free, total = self._driver.cuMemGetInfo()
        checked(self._driver, "cuMemGetInfo", (status,))
        return int(free), int(total)

    def allocate(self, nbytes: int, what: str) -> int:
        """The address of memory of any contents.

        Raises:
            DeviceMemoryError: there is not enough.
        """
        self._demand_no_capture("allocate memory")
        try:
            address = int(self._call("cuMemAlloc", max(1, nbytes)))
        except DeviceMemoryError as error:
            free, total = self.memory()
            raise DeviceMemoryError(
                f"the GPU has no memory for {what}",
                got=f"{nbytes:,} bytes wanted, {free:,} of {total:,} free",
                expected="enough of it",
                next="lower kv_cache_memory, max_num_batched_tokens or max_num_seqs",
            ) from error
        self._taken.add(address)
        return address

    def free(self, address: int) -> None:
        """Give memory back, once all that may use it is finished."""
        self._demand_no_capture("free memory")
        self._taken.remove(address)
        self.synchronize()
        self._call("cuMemFree", address)

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        """Put an array's bytes there; it may change afterwards."""
        self._demand_no_capture("write")
        self._order.other()
        self._pinned.write(address, array)

    def read(self, address: int, nbytes: int) -> Bytes:
        """A copy of bytes, once everything before is finished."""
        self._demand_no_capture("read")
        self._order.other()
        return self._pinned.read(address, nbytes)

    def fetch(self, address: int, nbytes: int) -> Callable[[], Bytes]:
        """A copy of bytes as they are after everything before; calling the answer waits."""
        self._demand_no_capture("read")
        self._order.other()
        return self._pinned.fetch(address, nbytes)

    def land(self, address: int, nbytes: int) -> Callable[[], Bytes]:
        """Bytes as they are after everything before, where they arrive; see ``Device``."""
        self._demand_no_capture("read")
        self._order.other()
        return self._pinned.land(address, nbytes)

    def fill(self, address: int, nbytes: int, byte: int) -> None:
        """Put one byte everywhere."""
        self._demand_no_capture("fill memory")
        self._order.other()
        if nbytes:
            self._call("cuMemsetD8Async", address, byte, nbytes, self._stream)

    def view(self, address: int, nbytes: int) -> Any:
        """Bytes as what ``torch.as_tensor`` takes without copying them."""
        self._order.other()  # what PyTorch launches
        # Version 2 names no stream: PyTorch works on this device's own, so nobody has to wait.
        place = (address, False)
        interface = {"shape": (nbytes,), "typestr": "|u1", "data": place, "version": 2}
        return SimpleNamespace(__cuda_array_interface__=interface)

    def kernels(
        self, kernels: Mapping[str, LaunchKernel], read: Callable[[str, str], bytes]
    ) -> KernelSet:
        """Load kernels; see :class:`graphopt.runtime.executors.gpu.device.Device`."""
        for arch in sorted({kernel.arch for kernel in kernels.values()}):
            check_arch(self._driver, arch)
        found = KernelSet(kernels, read, self._driver, _Memory(self))
        self._kernels.append(found)
        return found

    @contextmanager
    def capture(self) -> Iterator[Callable[[], Graph]]:
        """Within it launches are recorded and not run.

        Raises:
            DeviceMemoryError: the device has no memory for it.
            MachineError: the device refuses.
        """
        self._demand_no_capture("capture")
        found: list[_Graph] = []
        # Of this thread alone: another one may take memory meanwhile.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._order.other()
        self._call("cuStreamBeginCapture", self._stream, mode)
        self._capturing = True
        self._marks.begin_capture()
        try:
            yield lambda: found[0]
        except BaseException:
            self._capturing = False
            status, graph = self._driver.cuStreamEndCapture(self._stream)
            if status == self._driver.CUresult.CUDA_SUCCESS:
                self._driver.cuGraphDestroy(graph)
            raise
        finally:
            self._order.other()
        self._capturing = False
        found.append(self._instantiated(self._call("cuStreamEndCapture", self._stream)))

    def _instantiated(self, graph: Any) -> _Graph:
        try:
            handle = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._driver.cuGraphDestroy(graph)
        made = _Graph(handle)
        self._graphs.append(made)
        try:  # now, and not when it is first replayed
            self._call("cuGraphUpload", handle, self._stream)
        except MachineError:
            self.release(made)
            raise
        return made

    def replay(self, graph: Graph) -> None:
        """Run a graph's launches."""
        self._order.other()
        self._call("cuGraphLaunch", _mine(graph).handle, self._stream)

    def release(self, graph: Graph) -> None:
        """Give a graph's memory back."""
        mine = _mine(graph)
        self._graphs.remove(mine)
        handle, mine.handle = mine.handle, None
        self._call("cuGraphExecDestroy", handle)

    def watch(self, seconds: float) -> None:
        """From now on give up what takes longer; 0 waits for ever."""
        self._patience.seconds = seconds

    def mark(self, number: int) -> None:
        """Let it be known when all before this is finished; in a capture, at each replay."""
        if self._capturing:
            self._marks.leave_captured(number)
        else:
            self._order.other()
            self._marks.leave(number)

    def synchronize(self) -> None:
        """Wait until everything is finished."""
        self._demand_no_capture("wait")
        self._patience.stream("what ran before", self._stream)

    def close(self) -> None:
        """Give everything back; a device that failed gives back what it can.

        Of one that hangs nothing can be had without waiting for it: the driver takes everything
        back when the process ends.
        """
        if self._closed:
            return
        self._closed = True
        if self._patience.is_lost:
            return
        self.attach()
        driver = self._driver
        driver.cuStreamSynchronize(self._stream)
        for graph in self._graphs:
            driver.cuGraphExecDestroy(graph.handle)
        for kernels in self._kernels:
            kernels.close()
        for address in self._taken:
            driver.cuMemFree(address)
        self._graphs, self._kernels, self._taken = [], [], set()
        self._pinned.close()
        self._marks.close()
        driver.cuStreamDestroy(self._stream)
        driver.cuDevicePrimaryCtxRelease(self._handle)

    def _call(self, name: str, *given: Any) -> Any:
        driver = self._driver
        answer = getattr(driver, name)(*given)
        if answer[0] == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise DeviceMemoryError(f"the GPU has no memory for {name}", got=f"{answer[0]}")
        return checked(driver, name, answer)

    def _demand_no_capture(self, what: str) -> None:
        if self._capturing:
            raise UsageError(
                f"a GPU that captures launches cannot {what}",
                next="take and fill memory before the capture",
            )


class _Memory:
    """What kernels keep for good, on the device's stream."""

    def __init__(self, device: DriverDevice) -> None:
        self._device = device

    @property
    def order(self) -> Order:
        return self._device._order

    def zeros(self, nbytes: int) -> int:
        address = self._device.allocate(nbytes, "what kernels share")
        self._device.fill(address, nbytes, 0)
        return address

    def current_stream(self) -> int:
        return self._device.stream


def _mine(graph: Graph) -> _Graph:
    if not isinstance(graph, _Graph) or graph.handle is None:
        raise UsageError("this is no graph of this device, or it was given back", got=graph)
    return graph
