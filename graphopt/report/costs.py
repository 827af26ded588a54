"""What a region costs: the bytes that cross its border, and the arithmetic inside.

Between the nodes of a region nothing touches memory: a value that stays inside costs nothing, one
that several nodes read is read once, and a view is the value it looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir import ops
from graphopt.ir.graph import Node, Value
from graphopt.ir.ops_spec import all_bytes
from graphopt.ir.shape import Dim, dim_min
from graphopt.ir.types import StateType, nbytes
from graphopt.plan import Plan

from .items import Item


def region_flops(item: Item) -> Dim:
    """Arithmetic operations of all nodes."""
    total: Dim = 0
    for node in item.nodes:
        total = total + ops.flops(node)
    return total


def region_bytes(item: Item) -> Dim:
    """Bytes that the nodes read and write when one kernel runs them."""
    roots = _roots(item.nodes)
    made = {value: node for node in item.nodes for value in node.outputs}
    leaving = {roots.get(value, value) for value in item.outputs}
    total: Dim = 0
    read: set[Value] = set()
    for node in item.nodes:
        total = total + ops.bytes_moved(node)
        if ops.is_view(node.op):
            continue
        for value in dict.fromkeys(node.inputs):
            root = roots.get(value, value)
            if root in made or root in read:
                total = total - _bytes_read(node, value)
            read.add(root)
    for value, node in made.items():
        if value not in leaving and not ops.is_view(node.op):
            total = total - nbytes(value.type)
    return total


def _roots(nodes: Sequence[Node]) -> Mapping[Value, Value]:
    """The value that each view inside looks at."""
    roots: dict[Value, Value] = {}
    for node in nodes:
        if ops.is_view(node.op):
            root = roots.get(node.inputs[0], node.inputs[0])
            roots.update(dict.fromkeys(node.outputs, root))
    return roots


def _bytes_read(node: Node, value: Value) -> Dim:
    """How much of an input a node reads when it runs alone."""
    if ops.is_aten(node.op) or ops.spec_of(node.op).bytes is all_bytes:
        return nbytes(value.type)
    written: Dim = 0
    for output in node.outputs:
        written = written + nbytes(output.type)
    return dim_min(nbytes(value.type), ops.bytes_moved(node) - written)


@dataclass(frozen=True, slots=True)
class Life:
    """How long a buffer is needed.

    Attributes:
        slot: number of the buffer.
        names: the values it holds, one after the other where a step works in place.
        first: the step that writes it; -1 for an input.
        last: the last step that needs it.
    """

    slot: int
    names: tuple[str, ...]
    first: int
    last: int


def lives(plan: Plan, items: Sequence[Item]) -> list[Life]:
    """The lives of all buffers; ``items`` are the plan's steps."""
    names = {number: {slot.holds: None} for number, slot in enumerate(plan.slots)}
    for step, item in zip(plan.steps(), items, strict=True):
        outputs = [str(v) for v in item.outputs if not isinstance(v.type, StateType)]
        for slot, name in zip(step.results, outputs, strict=False):
            names[slot][name] = None
    given = set(plan.inputs.values())
    return [
        Life(number, tuple(names[number]), -1 if number in given else slot.first, slot.last)
        for number, slot in enumerate(plan.slots)
    ]
