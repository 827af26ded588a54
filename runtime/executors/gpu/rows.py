"""The rows of a step from a GPU to whoever makes vectors of them.

before:  rows [R, H] of a plan that embeds, on the device
after:   f32[R, H] on the host: where they arrived if they are float32, else converted from there
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphopt.ir.dtype import DType
from graphopt.safetensors_io import numpy_dtype

from ...executor import Sampled, embedded
from ..slots import as_f32
from .device import Device


class DeviceRows:
    """Brings the rows of a plan's steps to the host.

    Args:
        device: where they are.
        dtype: their type.
        size: H.
    """

    def __init__(self, device: Device, dtype: DType, size: int) -> None:
        self._device = device
        self._dtype = dtype
        self._size = size

    def start(self, address: int, count: int) -> Callable[[], Sampled]:
        """Let so many rows come; calling the answer waits for them.

        They hold until the rows of the step after the next one come.
        """
        if not count:
            return lambda: embedded(np.zeros((0, self._size), np.float32))
        landed = self._device.land(address, count * self._size * self._dtype.nbytes)

        def rows() -> Sampled:
            found = landed().view(numpy_dtype(self._dtype)).reshape(count, self._size)
            return embedded(as_f32(found, self._dtype))

        return rows
