"""How a weight lies in an artifact: in panels for a CPU, in chunks for a GPU; there and back.

before:  a tensor, and the layout that kernels read it in
after:   the tensor that is stored, of another shape and sometimes another type

A weight without a layout lies row after row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graphopt.errors import ArtifactError
from graphopt.gpu_packing import CHUNKS, GpuPacking, pack_chunks, unpack_chunks
from graphopt.ir.dtype import DType
from graphopt.packing import PANELS, Array, Layout, pack, stored_type, unpack
from graphopt.quantization import pack_quantized, unpack_quantized

WeightLayout = Layout | GpuPacking


def layout_from_json(data: Mapping[str, Any], *, of_gpu: bool) -> WeightLayout:
    """The layout whose ``to_json`` wrote the data.

    Args:
        data: what was written.
        of_gpu: whether kernels of a GPU read it: those of a CPU would believe its numbers too.

    Raises:
        ArtifactError: the data is not such a layout.
    """
    kind, wanted = data.get("kind"), CHUNKS if of_gpu else PANELS
    if kind != wanted:
        raise ArtifactError(
            "layout of a weight is not readable", got=f"kind {kind!r}", expected=wanted
        )
    return GpuPacking.from_json(data) if of_gpu else Layout.from_json(data)


def stored_as(layout: WeightLayout, dtype: DType) -> tuple[DType, tuple[int, ...]]:
    """Element type and shape of the stored tensor of a weight of ``dtype``.

    Raises:
        IRError: no weight of that type is stored in panels.
    """
    if isinstance(layout, GpuPacking):
        return layout.dtype, layout.shape
    return stored_type(layout, dtype)


def packed(array: Array, layout: WeightLayout, load: Callable[[str], Array]) -> Array:
    """A weight as it is stored.

    Args:
        array: the weight; bf16 as integers of its size.
        layout: how to store it.
        load: gives the scales that are stored with a weight, by name.

    Raises:
        IRError: the array does not fit the layout.
    """
    if isinstance(layout, GpuPacking):
        return pack_chunks(array, layout)
    if layout.quant is not None:
        return pack_quantized(array, load(layout.scales), layout)
    return pack(array.view("u2") if array.dtype == "i2" else array, layout)


def unpacked(stored: Array, layout: WeightLayout) -> Array:
    """The weight of a stored tensor; without the scales that are stored with it.

    Raises:
        IRError: the array does not fit the layout.
    """
    if isinstance(layout, GpuPacking):
        return unpack_chunks(stored, layout)
    if layout.quant is not None:
        return unpack_quantized(stored, layout)[0]
    return unpack(stored, layout)
