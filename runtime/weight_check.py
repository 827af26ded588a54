"""Whether the weights of an artifact are what its graph reads.

A compiled kernel takes a pointer and believes what it was compiled for, so a weight of another
type, shape or layout would be read past its end, or give wrong numbers. So each weight is compared
once, by its type, before anything runs.
"""

from __future__ import annotations

import math

from graphopt.errors import ArtifactError
from graphopt.gpu_packing import GpuPacking
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.packing import Layout
from graphopt.safetensors_io import Weights


def check_weights(weights: Weights, graph: Graph) -> None:
    """Demand that each weight of ``graph`` is stored in the graph's type, packed or not.

    Raises:
        ArtifactError: one is not, or is missing; it is named.
    """
    layouts = weights.layouts
    panels_of = {
        one.scales: one for one in layouts.values() if isinstance(one, Layout) and one.scales
    }
    for value in graph.weights:
        name, type_ = value.name, value.type
        stored, dtype = weights.stored(name), weights.dtype(name)
        if not isinstance(type_, TensorType):
            raise ArtifactError("a weight is not a tensor", where=name, got=type_)
        layout = panels_of.get(name, layouts.get(name))
        if isinstance(layout, Layout):
            columns, found = layout.columns, _described(dtype, layout)
            if name in panels_of:
                columns = layout.quant.groups(columns) if layout.quant else 0
                found = f"the scales of {found}"
            fits = _fits(type_, layout, columns)
        else:
            shape = layout.plain if isinstance(layout, GpuPacking) else stored.shape
            fits = shape == type_.shape
            found = f"{dtype.value}[{', '.join(map(str, shape))}]"
        if not fits or dtype is not type_.dtype:
            raise ArtifactError(
                f"weight {name} is not what the graph expects", got=found, expected=type_
            )


def _fits(type_: TensorType, layout: Layout, columns: int) -> bool:
    """Whether a weight of this type is packed as ``layout`` says."""
    sizes = [size for size in type_.shape if isinstance(size, int)]
    matrix = [columns, layout.rows] if layout.transposed else [layout.rows, columns]
    return (
        len(sizes) == len(type_.shape)
        and sizes[-2:] == matrix
        and math.prod(sizes[:-2]) == layout.batch
    )


def _described(dtype: DType, layout: Layout) -> str:
    order = "columns before rows" if layout.transposed else "rows before columns"
    return (
        f"{layout.batch} x {layout.rows} rows of {layout.columns} columns in {dtype.value}, {order}"
    )
