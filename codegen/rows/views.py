"""Where a value of a region lies in the memory that the region is given.

before:  a value, and the views inside the region that lead to it from an operand
after:   the operand, and the strided access of the value's elements in it
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops_spec import dim_of, dims_of, int_of, ints_of
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType
from graphopt.region import Region

from .access import Access, contiguous


@dataclass(frozen=True, slots=True)
class View:
    """A value that lies in a region's operand.

    Attributes:
        operand: one of the region's inputs.
        access: the value's elements in it.
    """

    operand: Value
    access: Access


def view_of(graph: Graph, region: Region, value: Value) -> View | None:
    """``value`` in an operand of ``region``; None if the region computes it, or strides fail."""
    if not isinstance(value.type, TensorType):
        return None
    if value in region.inputs:
        return View(value, contiguous(value.type.shape))
    node = graph.producers.get(value)
    if node is None or not node.inputs:
        return None
    found = view_of(graph, region, node.inputs[0])
    if found is None:
        return None
    access = viewed(node, value, found.access)
    return None if access is None else View(found.operand, access)


def viewed(node: Node, value: Value, access: Access) -> Access | None:
    """Where an output of a view lies, if the view's input lies at ``access``; None if nowhere."""
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    attrs = node.attrs
    match node.op:
        case "reshape":
            return access.reshape(shape)
        case "permute":
            return access.permute(ints_of(attrs, "dims"))
        case "expand":
            return access.expand(shape)
        case "slice":
            dim = int_of(attrs, "dim")
            step = int_of(attrs, "step")
            return access.slice(dim, dim_of(attrs, "start"), shape[dim], step)
        case "select":
            return access.select(int_of(attrs, "dim"), dim_of(attrs, "index"))
        case "split":
            dim = int_of(attrs, "dim")
            start: Dim = 0
            sizes = dims_of(attrs, "sizes")
            for size in sizes[: node.outputs.index(value)]:
                start = start + size
            return access.slice(dim, start, shape[dim])
        case "flip":
            return access.flip(ints_of(attrs, "dims"))
    return None
