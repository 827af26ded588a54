"""Which elements of the last dimension of a tensor a value holds.

span_of(graph, slice(%x) {start = 8, end = 16})      elements 8 to 16 of %x
pair_of(graph, slice(..., end = 8), slice(..., start = 8))      the two halves of %x
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops_spec import dim_of, dims_of, int_of
from graphopt.ir.shape import Dim

from .typed import last_size, shape_of


@dataclass(frozen=True, slots=True)
class Pair:
    """Two halves of the last dimension of ``source``, or its even and odd elements."""

    source: Value
    interleaved: bool


def pair_of(graph: Graph, first: Value, second: Value) -> Pair | None:
    """What ``first`` and ``second`` are the two halves of."""
    low, high = span_of(graph, first), span_of(graph, second)
    if low is None or high is None or low.source is not high.source:
        return None
    spans = (low.start, low.end, low.step), (high.start, high.end, high.step)
    size = last_size(low.source)
    if spans == ((0, size // 2, 1), (size // 2, size, 1)) and size % 2 == 0:
        return Pair(low.source, False)
    if spans == ((0, size, 2), (1, size, 2)) and size % 2 == 0:
        return Pair(low.source, True)
    return None


@dataclass(frozen=True, slots=True)
class Span:
    """Every ``step``-th element of the last dimension of ``source``, from ``start`` to ``end``."""

    source: Value
    start: Dim
    end: Dim
    step: int = 1


def span_of(graph: Graph, value: Value) -> Span | None:
    """Which part of what ``value`` is cut from, along the last dimension."""
    node = graph.producers.get(value)
    if node is None or not node.inputs:
        return None
    source, axis = node.inputs[0], len(shape_of(node.inputs[0])) - 1
    match node.op:
        case "slice" if node.attrs["dim"] == axis:
            start, end = dim_of(node.attrs, "start"), dim_of(node.attrs, "end")
            return Span(source, start, end, int_of(node.attrs, "step"))
        case "split" if node.attrs["dim"] == axis:
            sizes, index = dims_of(node.attrs, "sizes"), node.outputs.index(value)
            start = sum(sizes[:index], 0)
            return Span(source, start, start + sizes[index])
        case "select":
            return _selected(graph, node)
    return None


def _selected(graph: Graph, node: Node) -> Span | None:
    """A part of a tensor whose last dimension is seen as pairs, or as two halves."""
    source = node.inputs[0]
    view, shape, index = graph.producers.get(source), shape_of(source), int_of(node.attrs, "index")
    if view is None or view.op != "reshape" or len(shape) < 2:
        return None
    wide = (*shape[:-2], shape[-2] * shape[-1])
    axis, size = int_of(node.attrs, "dim"), wide[-1]
    if shape_of(view.inputs[0]) != wide:
        return None
    if axis == len(shape) - 1:
        return Span(view.inputs[0], index, size, shape[-1]) if shape[-1] == 2 else None
    if axis == len(shape) - 2:
        return Span(view.inputs[0], index * shape[-1], (index + 1) * shape[-1])
    return None
