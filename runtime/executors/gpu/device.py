"""All that an executor asks of a GPU: memory, launches in order, and graphs of launches.

Everything is given to one stream, so what comes later sees what came before; only ``read``,
``synchronize`` and what ``fetch`` gives wait. Addresses are numbers that stay what they are until
memory is given back. A device knows neither plans nor PyTorch; PyTorch reaches the same memory
through ``view``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from graphopt.errors import DeviceLostError, MachineError
from graphopt.launch import LaunchKernel

Bytes = npt.NDArray[np.uint8]
# Where memory begins: a multiple of this, which is more than any kernel asks for.
DEVICE_ALIGNMENT = 256
# The largest number of a mark.
MOST_MARKS = (1 << 32) - 1


class DeviceMemoryError(MachineError):
    """A device has too little memory left."""


class DeviceHangError(DeviceLostError):
    """A device did not do in time what it was given.

    Args:
        reached: the mark that it came to last; 0 for none.
        got: what was waited for.
    """

    def __init__(self, reached: int, got: str | None = None) -> None:
        self.reached = reached
        super().__init__("the GPU does not answer", got=got, next="start again")


def rounded(nbytes: int) -> int:
    """So many bytes that what comes after them is aligned."""
    return -(-nbytes // DEVICE_ALIGNMENT) * DEVICE_ALIGNMENT


class Kernels(Protocol):
    """Compiled kernels on a device, and the memory that they keep for good."""

    def launch(self, name: str, pointers: Sequence[int], sizes: Mapping[str, int]) -> None:
        """Launch a kernel; it runs after what the stream was given before.

        Args:
            name: the kernel's.
            pointers: addresses, in the kernel's order, without its workspace.
            sizes: of the step.
        """

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Take the memory that kernels keep for steps up to ``sizes``."""

    def workspace_bytes(self, sizes: Mapping[str, int]) -> int:
        """Bytes that workspaces take if no step is larger than ``sizes``."""

    def workspaces(self) -> Mapping[str, int]:
        """Where what each kernel keeps lies now, by a name for it."""

    def close(self) -> None:
        """Unload everything. May be called twice."""


class Graph(Protocol):
    """Launches that were captured, and run again together; a device makes it and knows it."""


class Device(Protocol):
    """One GPU. A thread that uses it calls ``attach`` first."""

    @property
    def arch(self) -> str:
        """Its architecture, such as ``sm_90``."""

    @property
    def stream(self) -> int:
        """The stream that everything is given to, as PyTorch takes it; 0 where there is none."""

    @property
    def copied_bytes(self) -> int:
        """Bytes that were copied there from the host so far."""

    def attach(self) -> None:
        """Make the device the calling thread's own."""

    def memory(self) -> tuple[int, int]:
        """Bytes that are free now, whoever took the others, and bytes in all."""

    def allocate(self, nbytes: int, what: str) -> int:
        """The address of memory of any contents, a multiple of ``DEVICE_ALIGNMENT``.

        Raises:
            DeviceMemoryError: there is not enough; ``what`` it is for is said.
        """

    def free(self, address: int) -> None:
        """Give back what ``allocate`` gave; what the stream was given before is finished first."""

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        """Put an array's bytes there, in order with everything else; it may change afterwards."""

    def read(self, address: int, nbytes: int) -> Bytes:
        """A copy of bytes, once everything before is finished."""

    def fetch(self, address: int, nbytes: int) -> Callable[[], Bytes]:
        """A copy of bytes as they are after everything before, whatever is given later.

        Calling the answer waits until they are here.
        """

    def land(self, address: int, nbytes: int) -> Callable[[], Bytes]:
        """Bytes as they are after everything before, where they arrive on the host.

        Calling the answer waits until they are here and copies nothing: the landing after the next
        one overwrites them.
        """

    def fill(self, address: int, nbytes: int, byte: int) -> None:
        """Put one byte everywhere, in order with everything else."""

    def view(self, address: int, nbytes: int) -> Any:
        """Bytes as what ``torch.as_tensor`` takes without copying them."""

    def kernels(
        self, kernels: Mapping[str, LaunchKernel], read: Callable[[str, str], bytes]
    ) -> Kernels:
        """Load kernels.

        Args:
            kernels: by name.
            read: gives a cubin, by the kernel's name and the file's.

        Raises:
            ArtifactError: they are for another GPU, or a cubin is not what its kernel says.
            MachineError: the device refuses one.
        """

    def capture(self) -> AbstractContextManager[Callable[[], Graph]]:
        """Within it launches and marks are recorded; nothing runs, or may be asked for else.

        What it gives answers with the graph, once the context is left.

        Raises:
            DeviceMemoryError: the device has no memory for it.
            MachineError: the device refuses to capture.
        """

    def replay(self, graph: Graph) -> None:
        """Run a graph's launches, in order with everything else."""

    def release(self, graph: Graph) -> None:
        """Give a graph's memory back."""

    def watch(self, seconds: float) -> None:
        """From now on give up, by a ``DeviceHangError``, what takes longer; 0 waits for ever."""

    def mark(self, number: int) -> None:
        """Let it be known when all before this is finished: such an error tells the last mark.

        Within a capture each replay does so, and no launch waits for it.

        Args:
            number: at least 1, at most ``MOST_MARKS``.

        Raises:
            MachineError: this device leaves no marks; everything else goes on.
        """

    def synchronize(self) -> None:
        """Wait until everything is finished.

        Raises:
            MachineError: something failed; what is not known is which launch.
        """

    def close(self) -> None:
        """Give everything back. May be called twice."""
