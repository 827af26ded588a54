"""An NVIDIA GPU as tuning sees it: numbers to work on, and how long work takes."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.ir.dtype import DType

from .cubins import TorchMemory, device_arch, open_driver

# Work is timed so often, after so often without a clock.
REPETITIONS, WARMUPS = 30, 3
# Written before each repetition, so that nothing is found in the cache; larger than any GPU's.
FLUSH_BYTES = 256 << 20


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
        self._kept: list[Any] = []
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
        self._kept.append(self._torch.from_numpy(array).to("cuda"))
        return int(self._kept[-1].data_ptr())

    def noise(self, dtype: DType, count: int) -> int:
        """The address of ``count`` random numbers; of bytes for types that hold none."""
        torch = self._torch
        if dtype.is_float:
            numbers = torch.randn(count, device="cuda").to(getattr(torch, dtype.torch_name))
        else:
            nbytes = count * dtype.nbytes
            numbers = torch.randint(0, 256, (nbytes,), dtype=torch.uint8, device="cuda")
        self._kept.append(numbers)
        return int(numbers.data_ptr())

    def clear(self) -> None:
        """Give back what ``put`` and ``noise`` took."""
        self._kept.clear()

    def micros(self, work: Callable[[], None]) -> float:
        """Microseconds that ``work`` takes on the device, in the median."""
        cuda = self._torch.cuda
        for _ in range(WARMUPS):
            work()
        marks = []
        for _ in range(REPETITIONS):
            self._flush.zero_()
            start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            marks.append((start, end))
        cuda.synchronize()
        return float(median(start.elapsed_time(end) * 1e3 for start, end in marks))
