"""The memory of a plan's slots: one arena, laid out for the sizes of a step.

A layout is worked out once for all steps up to a power of two of tokens, rows and sequences, since
a layout holds for all smaller sizes. The arena grows when a larger layout comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from graphopt.arena import ALIGNMENT, Layout
from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType
from graphopt.plan import Plan
from graphopt.safetensors_io import numpy_dtype

from .layouts import Layouts, power_of_two_from

Bytes = npt.NDArray[np.uint8]
Sizes = Mapping[str, int]


def aligned(nbytes: int) -> Bytes:
    """Memory that begins at a multiple of 64; its pages are not touched.

    Raises:
        MemoryError: there is not so much.
    """
    try:
        raw = np.empty(nbytes + ALIGNMENT, dtype=np.uint8)
    except (ValueError, OverflowError) as error:  # more than a pointer can tell apart
        raise MemoryError(f"{nbytes} bytes") from error
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes]


def as_f32(array: npt.NDArray[Any], dtype: DType) -> npt.NDArray[np.float32]:
    """Numbers of ``dtype`` as float32; bf16 stands in integers of the same size."""
    if dtype is DType.BF16:
        wide = array.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return array.astype(np.float32, copy=False)


class Slots:
    """Where a plan's slots and workspaces are.

    Args:
        plan: whose.
    """

    def __init__(self, plan: Plan) -> None:
        self._arena = aligned(0)
        self._layouts = Layouts(plan)

    @property
    def base(self) -> int:
        """Address of the arena, which changes when it grows."""
        return int(self._arena.ctypes.data)

    def layout_for(self, sizes: Sizes) -> tuple[tuple[int, ...], Layout]:
        """The layout that holds for a step of ``sizes``, and a key that steps with it share.

        Raises:
            MachineError: there is not enough memory.
        """
        tokens, rows, sequences = key = tuple(power_of_two_from(sizes[name]) for name in "TRS")
        found = self._layouts.at(tokens, rows, sequences)
        if found.peak_bytes > len(self._arena):
            try:
                self._arena = aligned(found.peak_bytes)
            except MemoryError as error:
                raise MachineError(
                    "there is no memory for a step",
                    got=f"{found.peak_bytes} bytes for {sizes['T']} tokens",
                    next="lower max_num_batched_tokens",
                ) from error
        return key, found

    def array(self, slot: int, type_: TensorType, sizes: Sizes) -> npt.NDArray[Any]:
        """What ``slot`` holds in a step of ``sizes``; bf16 as integers. A view of the arena."""
        _, places = self.layout_for(sizes)
        shape = tuple(evaluate(dim, sizes) for dim in type_.shape)
        start = places.offsets[slot]
        size = int(np.prod(shape, dtype=np.int64)) * type_.dtype.nbytes
        data = self._arena[start : start + size]
        return data.view(numpy_dtype(type_.dtype)).reshape(shape)

    def close(self) -> None:
        """Give the memory back."""
        self._arena = aligned(0)
