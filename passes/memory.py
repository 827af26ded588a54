"""Assign values to buffer slots by their lives.

before:  regions in running order, each with the kernel that computes it
after:   steps that read and write numbered slots; a slot whose value is dead is used again

Two values share a slot only if their sizes are the same expression, so a slot's size is that
expression. State takes no slot: it is paged memory that is updated in place. The output's slot is
never freed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.errors import CompileError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import Dim
from graphopt.ir.types import StateType, nbytes
from graphopt.plan import BufferSlot, Operand, Step
from graphopt.region import Region, state_root


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Slots, the steps that use them, and where the graph's inputs and output are."""

    slots: tuple[BufferSlot, ...]
    steps: tuple[Step, ...]
    inputs: dict[str, int]
    output: int


def plan_memory(
    graph: Graph, regions: Sequence[Region], kernels: Sequence[tuple[str, str]]
) -> MemoryPlan:
    """Slots for ``regions``; ``kernels`` gives each region's backend and kernel name.

    Raises:
        CompileError: the graph's only output is not a tensor made by a region.
    """
    assignment = _Assignment(graph)
    inputs = {
        value.name: assignment.allocate(value)
        for value in graph.inputs
        if not isinstance(value.type, StateType)
    }
    last_use = _last_uses(graph, regions)
    dying: dict[int, list[Value]] = defaultdict(list)
    for value, position in last_use.items():
        dying[position].append(value)
    steps = []
    for position, (region, (backend, kernel)) in enumerate(zip(regions, kernels, strict=True)):
        operands = tuple(assignment.operand(value) for value in region.inputs)
        outputs = [value for value in region.outputs if not isinstance(value.type, StateType)]
        results = tuple(assignment.allocate(value) for value in outputs)
        unread = [value for value in outputs if value not in last_use]
        frees = tuple(assignment.release(value) for value in (*dying[position], *unread))
        steps.append(
            Step(backend, kernel, region.nodes, operands, results, frees, region.scope, region.name)
        )
    if len(graph.outputs) != 1 or graph.outputs[0] not in assignment.slot_of:
        raise CompileError(
            "a plan needs exactly one output that is computed",
            where=graph.name,
            got=", ".join(map(str, graph.outputs)),
        )
    return MemoryPlan(
        tuple(assignment.slots), tuple(steps), inputs, assignment.slot_of[graph.outputs[0]]
    )


def _last_uses(graph: Graph, regions: Sequence[Region]) -> dict[Value, int]:
    """The last region that reads each value; what the graph returns lives past the end."""
    last: dict[Value, int] = {}
    for position, region in enumerate(regions):
        for value in region.inputs:
            if not value.is_weight and not isinstance(value.type, StateType):
                last[value] = position
    for value in graph.outputs:
        last[value] = len(regions)
    return last


class _Assignment:
    """Slots so far, and which of them hold nothing."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.slots: list[BufferSlot] = []
        self.slot_of: dict[Value, int] = {}
        self._free: dict[Dim, list[int]] = defaultdict(list)

    def allocate(self, value: Value) -> int:
        size = nbytes(value.type)
        if self._free[size]:
            number = self._free[size].pop()
        else:
            number = len(self.slots)
            self.slots.append(BufferSlot(size, str(value)))
        self.slot_of[value] = number
        return number

    def release(self, value: Value) -> int:
        number = self.slot_of[value]
        self._free[self.slots[number].nbytes].append(number)
        return number

    def operand(self, value: Value) -> Operand:
        if value.is_weight:
            return f"@{value.name}"
        if isinstance(value.type, StateType):
            return f"%{state_root(self.graph, value).name}"
        return self.slot_of[value]
