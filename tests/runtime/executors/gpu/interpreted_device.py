"""A GPU that is none: memory of this process, and kernels in Triton's interpreter.

What it loads as a cubin is the kernel's text, see ``interpreted_artifact``; so it runs exactly what
an artifact says is launched: symbols, constants and grids. Memory is poisoned when it is taken, and
has guards around it that are looked at when it is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.errors import MachineError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import evaluate
from graphopt.launch import LaunchKernel
from graphopt.runtime.executors.gpu.device import (
    DEVICE_ALIGNMENT,
    Bytes,
    DeviceHangError,
    DeviceMemoryError,
)

POISON, GUARD = 0xFF, 0xA5  # NaN in every type of numbers that has one
Run = Callable[[], None]


@dataclass(eq=False)
class RecordedGraph:
    """Launches of a capture, marks among them, and whether it was given back."""

    launches: list[Run]
    marks: int = 0
    released: bool = False


@dataclass
class InterpretedDevice:
    """A device of ``total`` bytes.

    Attributes:
        total: bytes of its memory.
        launched: names of the kernels that ran, in order.
        captures: how many captures were tried.
        copied_bytes: bytes that came from the host.
        captured: the pointers of all launches that were captured.
        hangs_in: part of the name of a kernel that does not end; nothing runs after it.
        reached: the mark that was come to last.
        leaves_marks: whether it does; else it refuses them.
        captured_marks: how many were recorded.
        refuse_capture: what a capture is refused with, told its number; None to let it be.
    """

    total: int = 1 << 30
    arch: str = "sm_90"
    stream: int = 0
    launched: list[str] = field(default_factory=list)
    captures: int = 0
    copied_bytes: int = 0
    captured: set[int] = field(default_factory=set)
    hangs_in: str = ""
    hung: bool = False
    patience_s: float = 0.0
    reached: int = 0
    leaves_marks: bool = True
    captured_marks: int = 0
    replays: int = 0
    refuse_capture: Callable[[int], Exception | None] = lambda number: None
    node_bytes: int = 64
    blocks: dict[int, Bytes] = field(default_factory=dict)
    graphs: list[RecordedGraph] = field(default_factory=list)
    recording: list[Run] | None = None
    landings: list[Bytes] = field(default_factory=lambda: [np.zeros(0, np.uint8)] * 2)

    def attach(self) -> None:
        """Any thread may use it."""

    def memory(self) -> tuple[int, int]:
        graphs = sum(self.node_bytes * (len(one.launches) - one.marks) for one in self.graphs)
        return self.total - sum(map(self._size, self.blocks)) - graphs, self.total

    def allocate(self, nbytes: int, what: str) -> int:
        self._demand_no_capture()
        if nbytes > self.memory()[0]:
            raise DeviceMemoryError(f"the GPU has no memory for {what}", got=nbytes)
        block = np.full(nbytes + 3 * DEVICE_ALIGNMENT, GUARD, np.uint8)
        address = block.ctypes.data + DEVICE_ALIGNMENT
        address += -address % DEVICE_ALIGNMENT
        self.blocks[address] = block
        self._bytes(address, nbytes)[:] = POISON
        return address

    def free(self, address: int) -> None:
        self._demand_no_capture()
        self._check_guards(address)
        del self.blocks[address]

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        self._demand_no_capture()
        given = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.copied_bytes += given.nbytes
        self._bytes(address, given.nbytes)[:] = given

    def read(self, address: int, nbytes: int) -> Bytes:
        self._demand_no_capture()
        return self._bytes(address, nbytes).copy()

    def fetch(self, address: int, nbytes: int) -> Callable[[], Bytes]:
        found, comes = self.read(address, nbytes), not self.hung
        return lambda: self._awaited(found, comes)

    def land(self, address: int, nbytes: int) -> Callable[[], Bytes]:
        """Places in turn, spoiled when they are used again."""
        landing = self.landings.pop(0)
        landing[:] = POISON
        found, comes = self.read(address, nbytes), not self.hung
        self.landings.append(found)
        return lambda: self._awaited(found, comes)

    def fill(self, address: int, nbytes: int, byte: int) -> None:
        self._demand_no_capture()
        self._bytes(address, nbytes)[:] = byte

    def view(self, address: int, nbytes: int) -> Bytes:
        return self._bytes(address, nbytes)

    def kernels(
        self, kernels: Mapping[str, LaunchKernel], read: Callable[[str, str], bytes]
    ) -> InterpretedKernels:
        return InterpretedKernels(self, kernels, read)

    @contextmanager
    def capture(self) -> Iterator[Callable[[], RecordedGraph]]:
        self._demand_no_capture()
        self.captures += 1
        error = self.refuse_capture(self.captures)
        if error is not None:
            raise error
        found: list[RecordedGraph] = []
        marks, self.recording = self.captured_marks, []
        try:
            yield lambda: found[0]
        except BaseException:
            self.recording = None
            raise
        launches, self.recording = self.recording, None
        found.append(RecordedGraph(launches, self.captured_marks - marks))
        self.graphs.append(found[0])

    def replay(self, graph: Any) -> None:
        assert graph in self.graphs
        self.replays += 1
        for launch in graph.launches:
            launch()

    def release(self, graph: Any) -> None:
        self.graphs.remove(graph)

    def watch(self, seconds: float) -> None:
        self.patience_s = seconds

    def mark(self, number: int) -> None:
        if not self.leaves_marks:
            raise MachineError("the GPU's driver refuses a mark")
        self.captured_marks += self.recording is not None
        self.do(lambda: self._reach(number))

    def _reach(self, number: int) -> None:
        if not self.hung:
            self.reached = number

    def _awaited(self, found: Bytes, comes: bool) -> Bytes:
        if not comes:
            assert self.patience_s, "nobody would ever know"
            raise DeviceHangError(self.reached)
        return found

    def synchronize(self) -> None:
        self._demand_no_capture()

    def close(self) -> None:
        for address in self.blocks:
            self._check_guards(address)
        self.blocks, self.graphs = {}, []

    def do(self, launch: Run) -> None:
        """Run a launch, or keep it for a replay."""
        if self.recording is None:
            launch()
        else:
            self.recording.append(launch)

    def block_of(self, address: int) -> int:
        """Where the memory begins that an address lies in."""
        found = (start for start in self.blocks if start <= address <= start + self._size(start))
        return next(found)

    def _size(self, address: int) -> int:
        return len(self.blocks[address]) - 3 * DEVICE_ALIGNMENT

    def _bytes(self, address: int, nbytes: int) -> Bytes:
        """Memory that was taken, and all of it in one piece."""
        for start, block in self.blocks.items():
            if start <= address <= address + nbytes <= start + self._size(start):
                place = address - block.ctypes.data
                return block[place : place + nbytes]
        raise AssertionError(f"{nbytes} bytes at {address:#x} are nobody's")

    def _check_guards(self, address: int) -> None:
        block, size = self.blocks[address], self._size(address)
        start = address - block.ctypes.data
        assert (block[:start] == GUARD).all(), "written before the beginning"
        assert (block[start + size :] == GUARD).all(), "written past the end"

    def _demand_no_capture(self) -> None:
        if self.recording is not None:
            raise UsageError("a GPU that captures launches can do nothing else")


class InterpretedKernels:
    """Kernels by their text."""

    def __init__(
        self,
        device: InterpretedDevice,
        kernels: Mapping[str, LaunchKernel],
        read: Callable[[str, str], bytes],
    ) -> None:
        self._device = device
        self._kernels = kernels
        self._texts = {
            (name, launch.file): read(name, launch.file).decode()
            for name, kernel in kernels.items()
            for variant in kernel.variants
            for launch in variant.launches
        }
        self._shared: dict[str, int] = {}

    def workspace_bytes(self, sizes: Mapping[str, int]) -> int:
        return sum(evaluate(one.workspace, sizes) for one in self._kernels.values())

    def reserve(self, sizes: Mapping[str, int]) -> None:
        for name, kernel in self._kernels.items():
            need = evaluate(kernel.workspace, sizes)
            place = self._shared.get(name)
            if None in kernel.pointers and (place is None or self._device._size(place) < need):
                self._shared[name] = place = self._device.allocate(need, "what kernels share")
                self._device.fill(place, need, 0)

    def workspaces(self) -> Mapping[str, int]:
        return {f"the workspace of {name}": place for name, place in self._shared.items()}

    def launch(self, name: str, pointers: Sequence[int], sizes: Mapping[str, int]) -> None:
        kernel = self._kernels[name]
        variant = kernel.variant(sizes)
        assert not variant.library, "PyTorch computes such a step"
        shared = [self._shared[name]] if None in kernel.pointers else []
        given = [*pointers, *shared]
        assert len(given) == len(kernel.pointers), f"{name} takes {kernel.pointers}"
        assert not any(address % 16 for address in given), "a pointer is not aligned"
        if shared:
            assert evaluate(kernel.workspace, sizes) <= self._device._size(shared[0])
        if self._device.recording is not None:
            self._device.captured.update(given)
        kept = dict(sizes)
        self._device.do(lambda: self._run(kernel, variant, given, kept))

    def _run(
        self, kernel: LaunchKernel, variant: Any, pointers: list[int], sizes: dict[str, int]
    ) -> None:
        """All launches of a variant, as :func:`graphopt.codegen.triton.interpreter.run` does."""
        from graphopt.codegen.triton.interpreter import run
        from graphopt.codegen.triton.kernel import TritonKernel, Variant

        if self._device.hangs_in and self._device.hangs_in in kernel.name:
            self._device.hung = True
        if self._device.hung:
            return
        self._device.launched.append(kernel.name)
        tensors = [
            self._tensor(address, dtype)
            for address, dtype in zip(pointers, kernel.pointers, strict=True)
        ]
        for launch in variant.launches:
            if all(launch.counts(sizes)):
                text = self._texts[kernel.name, launch.file]
                source = TritonKernel(kernel.name, text, kernel.pointers, kernel.sizes, ())
                run(source, Variant(launch.symbol, launch.constants, launch.grid), tensors, sizes)

    def _tensor(self, address: int, dtype: DType | None) -> Any:
        """What the interpreter takes for a pointer: where it is and to what, no matter how long."""
        import torch

        from graphopt.ir.reference import torch_dtype

        kind = dtype or DType.U8
        part = torch.from_numpy(self._device._bytes(address, kind.nbytes))
        return part.view(torch_dtype(kind))

    def close(self) -> None:
        self._texts = {}
