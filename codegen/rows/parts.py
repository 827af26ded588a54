"""The parts of a linear map's result that its epilogue reads side by side.

before:  ``%y = linear(%x, @w)``, then ``split(%y)``, then ``glu(%gate, %up)``
after:   gate and up are columns 0:F and F:2F of ``%y``: selections of rows of the weight

A weight is packed so that each part begins with a panel; a kernel then computes the same columns of
all parts at once. Where the parts do not make up the whole result, or differ in size, the result is
one part, and the epilogue waits for whole rows of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_view
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType
from graphopt.region import Region

from .access import Access, contiguous
from .views import viewed

Part = tuple[int, int, int]  # start, stop and step of the columns
ANCHORS = ("linear", "quantized_linear", "fp8_linear")


@dataclass(frozen=True, slots=True)
class Parts:
    """How a linear map's result is read.

    Attributes:
        columns: each part's selection of columns.
        values: the part that each value is; the result itself among them if it is one part.
    """

    columns: tuple[Part, ...]
    values: dict[Value, int]


def anchor_of(graph: Graph, region: Region) -> Node:
    """The linear map that a region is built around."""
    return next(graph.nodes[place] for place in region.nodes if graph.nodes[place].op in ANCHORS)


def parts_of(graph: Graph, region: Region) -> Parts:
    """The parts of a linear region's result."""
    result = anchor_of(graph, region).output
    columns = _columns(result)
    whole = Parts(((0, columns, 1),), {result: 0})
    if result in region.outputs:
        return whole
    read = _read_views(graph, region, result)
    found: dict[Value, Part] = {}
    for value, access in read.items():
        part = _part(value, access, columns)
        if part is None:
            return whole
        found[value] = part
    distinct = tuple(dict.fromkeys(found.values()))
    if len(distinct) < 2 or not _is_partition(distinct, columns):
        return whole
    return Parts(distinct, {value: distinct.index(part) for value, part in found.items()})


def _read_views(graph: Graph, region: Region, result: Value) -> dict[Value, Access | None]:
    """The views of ``result`` that something else than a view reads, and where they lie in it."""
    inside = [graph.nodes[place] for place in region.nodes]
    accesses: dict[Value, Access | None] = {result: contiguous(_shape(result))}
    for node in inside:
        if is_view(node.op) and node.inputs[0] in accesses:
            source = accesses[node.inputs[0]]
            for value in node.outputs:
                accesses[value] = None if source is None else viewed(node, value, source)
    return {
        value: access
        for value, access in accesses.items()
        if any(value in node.inputs and not is_view(node.op) for node in inside)
        or value in region.outputs
    }


def _part(value: Value, access: Access | None, columns: int) -> Part | None:
    """The columns that a view takes, if they are evenly spaced and its only ones."""
    shape = _shape(value)
    if access is None or len(shape) < 2 or not isinstance(shape[-1], int):
        return None
    start, step = access.offset, access.strides[-1]
    rows_are_whole = access.strides[:-1] == contiguous((*shape[:-1], columns)).strides[:-1]
    if not (isinstance(start, int) and isinstance(step, int) and step > 0 and rows_are_whole):
        return None
    return start, start + step * (shape[-1] - 1) + 1, step


def _is_partition(parts: Sequence[Part], columns: int) -> bool:
    taken = sorted(column for part in parts for column in range(*part))
    sizes = {len(range(*part)) for part in parts}
    return taken == list(range(columns)) and len(sizes) == 1


def _shape(value: Value) -> tuple[Dim, ...]:
    return value.type.shape if isinstance(value.type, TensorType) else ()


def _columns(value: Value) -> int:
    size = _shape(value)[-1]
    return size if isinstance(size, int) else 0
