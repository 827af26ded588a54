"""The tables of cosines and sines that rotary embedding reads, without what they say twice.

before:  %a = concat(%f, %f);  %c = cos(%a);  %t = cast(%c)          [T, 2 P]
after:   %c = cos(%f);  %t = cast(%c)                                [T, P]

Models make tables as wide as the heads, so that a product is pointwise: each angle stands there
twice, in two halves, or in pairs. A table is narrowed by following what is computed from it element
by element up to where it was doubled. It keeps its factors and its rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_pointwise
from graphopt.ir.shape import Dim

from .typed import last_size, shape_of


@dataclass(frozen=True, slots=True)
class Table:
    """A table [.., P]: nodes of one input each, applied in turn to a value with that last size."""

    source: Value
    steps: tuple[Node, ...] = ()

    def make(self, new: Rewriter, tokens: Dim) -> Value:
        """The table [T, P] in the new graph."""
        value = new.value(self.source)
        for node in self.steps:
            value = new.one(node.op, [value], node.attrs, loc=node.loc)
        shape = (tokens, last_size(value))
        return value if shape_of(value) == shape else new.one("reshape", [value], {"shape": shape})


def doubled(graph: Graph, value: Value, *, interleaved: bool) -> Table | None:
    """The table that ``value`` repeats: one after the other, or each element in turn.

    None if it cannot be seen that it repeats one.
    """
    steps: tuple[Node, ...] = ()
    while (node := graph.producers.get(value)) is not None:
        if _doubles(node, interleaved=interleaved):
            found = single(graph, node.inputs[0])
            return Table(found.source, (*found.steps, *steps))
        if not _keeps_rows(node):
            return None
        if node.op != "reshape":
            steps = (node, *steps)
        value = node.inputs[0]
    return None


def single(graph: Graph, value: Value) -> Table:
    """A table that is as wide as it needs to be; one cut from a doubled table is that, narrowed."""
    steps: tuple[Node, ...] = ()
    while (node := graph.producers.get(value)) is not None:
        if _cuts_half(node):
            found = doubled(graph, node.inputs[0], interleaved=False)
            if found is not None:
                return Table(found.source, (*found.steps, *steps))
        if not _keeps_rows(node):
            break
        if node.op != "reshape":
            steps = (node, *steps)
        value = node.inputs[0]
    return Table(value, steps)


def _doubles(node: Node, *, interleaved: bool) -> bool:
    axis = len(shape_of(node.output)) - 1
    if interleaved:
        return (
            node.op == "repeat_interleave"
            and node.attrs["repeats"] == 2
            and node.attrs["dim"] == axis
        )
    return (
        node.op == "concat"
        and len(node.inputs) == 2
        and node.inputs[0] is node.inputs[1]
        and node.attrs["dim"] == axis
    )


def _cuts_half(node: Node) -> bool:
    """Whether a node gives the first half of its input's rows."""
    axis = len(shape_of(node.output)) - 1
    attrs = node.attrs
    return (
        node.op == "slice"
        and attrs["dim"] == axis
        and (attrs["start"], attrs["step"]) == (0, 1)
        and 2 * last_size(node.output) == last_size(node.inputs[0])
    )


def _keeps_rows(node: Node) -> bool:
    """Whether an element depends on the one at its place, in rows of the same length."""
    if node.op == "reshape":
        return last_size(node.output) == last_size(node.inputs[0])
    return len(node.inputs) == 1 and is_pointwise(node.op)
