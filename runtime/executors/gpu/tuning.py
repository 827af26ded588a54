"""An NVIDIA GPU as tuning sees it: numbers to work on, and how long work takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphopt.errors import GraphoptError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType
from graphopt.plan import Step
from graphopt.region import Region

from .cubins import TorchMemory, device_arch, open_driver

# All works are timed so often, in turns, after so often without a clock.
REPETITIONS, WARMUPS = 30, 3
# Written before each repetition, so that nothing is found in the cache; larger than any GPU's.
FLUSH_BYTES = 256 << 20
Work = Callable[[], None]


class Took(NamedTuple):
    """Microseconds, in the median: on the device, and on the host until the device has it all."""

    device: float
    host: float


class CudaDevice:
    """PyTorch's current GPU.

    Raises:
        MachineError: there is none, or something is missing to use it.
    """

    def __init__(self) -> None:
        self.driver = open_driver()
        self.memory = TorchMemory()
        import torch

        self._torch = torch
        self._kept: dict[int, Any] = {}
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    @property
    def name(self) -> str:
        """What its driver calls it."""
        return str(self._torch.cuda.get_device_name())

    @property
    def arch(self) -> str:
        """Its architecture, such as ``sm_90``."""
        return device_arch(self.driver, self._torch.cuda.current_device())

    def put(self, array: npt.NDArray[np.generic]) -> int:
        """The address of a copy of ``array``, which lives until ``clear``."""
        return self._keep(self._torch.from_numpy(array).to("cuda"))

    def noise(self, dtype: DType, count: int) -> int:
        """The address of ``count`` random numbers; of bytes for types that hold none."""
        torch = self._torch
        if dtype.is_float:
            numbers = torch.randn(count, device="cuda").to(getattr(torch, dtype.torch_name))
        else:
            nbytes = count * dtype.nbytes
            numbers = torch.randint(0, 256, (nbytes,), dtype=torch.uint8, device="cuda")
        return self._keep(numbers)

    def clear(self) -> None:
        """Give back what ``put`` and ``noise`` took."""
        self._kept.clear()

    def micros(self, works: Sequence[Work]) -> list[Took]:
        """How long each of ``works`` takes, in turns, so that what changes meets them all."""
        cuda = self._torch.cuda
        for _ in range(WARMUPS):
            for work in works:
                work()
        marks: list[list[tuple[Any, Any, float]]] = [[] for _ in works]
        for _ in range(REPETITIONS):
            for work, found in zip(works, marks, strict=True):
                self._flush.zero_()
                start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
                start.record()
                before = time.perf_counter()
                work()
                seconds = time.perf_counter() - before
                end.record()
                found.append((start, end, seconds))
        cuda.synchronize()
        return [
            Took(
                float(median(start.elapsed_time(end) * 1e3 for start, end, _ in found)),
                float(median(seconds * 1e6 for _, _, seconds in found)),
            )
            for found in marks
        ]

    def library(
        self, graph: Graph, region: Region, addresses: Sequence[int], sizes: Mapping[str, int]
    ) -> Work | None:
        """What computes a region without state through PyTorch; None if PyTorch cannot.

        Args:
            graph: what the region is of.
            region: what is computed.
            addresses: of its operands, then of its results, as ``put`` and ``noise`` gave them.
            sizes: of the step.
        """
        from ..torch_nodes import TorchStep

        values = (*region.inputs, *region.outputs)
        given = {
            value: self._tensor(value, address, sizes)
            for value, address in zip(values, addresses, strict=True)
        }
        operands, results = range(len(region.inputs)), range(len(region.outputs))
        step = Step("torch", region.name, region.nodes, tuple(operands), tuple(results))
        nodes = TorchStep.of(graph, step, "cuda")

        def run() -> None:
            with self._torch.inference_mode():
                for value, found in zip(nodes.outputs, nodes.run(given, sizes), strict=True):
                    given[value].copy_(found)

        try:
            run()
        except GraphoptError:
            return None  # an operator that PyTorch lacks for a type, or too little memory
        return run

    def _keep(self, numbers: Any) -> int:
        address = int(numbers.data_ptr())
        self._kept[address] = numbers
        return address

    def _tensor(self, value: Value, address: int, sizes: Mapping[str, int]) -> Any:
        """A value whose numbers are at an address."""
        if not isinstance(value.type, TensorType):
            raise TypeError(f"{value} is no tensor")
        shape = [evaluate(size, sizes) for size in value.type.shape]
        dtype = getattr(self._torch, value.type.dtype.torch_name)
        return self._kept[address].view(dtype).view(shape)
