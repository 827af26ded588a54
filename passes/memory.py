"""Assign values to buffer slots by their lives.

before:  regions in running order, each with the kernel that computes it
after:   steps that read and write numbered slots; each slot has a size and a life

A slot is one stretch of memory, and no two share any: where each lies is decided per size, by
``graphopt.arena``. Views take no slot, for regions read through them. An input of the graph lies
where the caller has it and is never written. A result may be computed in the place of an operand,
see ``in_place``; the slot then lives on. State takes no slot: it is paged memory that is updated in
place. The output's slot lives to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphopt.errors import CompileError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.ops import is_view
from graphopt.ir.shape import Dim
from graphopt.ir.types import StateType, nbytes
from graphopt.plan import BufferSlot, Operand, Step
from graphopt.region import Region, state_root

from .in_place import reads_where_it_writes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Slots, the steps that use them, and where the graph's inputs and output are."""

    slots: tuple[BufferSlot, ...]
    steps: tuple[Step, ...]
    inputs: dict[str, int]
    output: int


def plan_memory(
    graph: Graph,
    regions: Sequence[Region],
    kernels: Sequence[tuple[str, str]],
    workspaces: Sequence[Dim] = (),
) -> MemoryPlan:
    """Slots for ``regions``.

    Args:
        graph: what the regions compute.
        regions: in running order.
        kernels: each region's backend and kernel name.
        workspaces: bytes that each region's kernel needs while it runs; none does if empty. What
            PyTorch holds while it runs a region node by node is added.

    Raises:
        CompileError: the graph's only output is not a tensor made by a region.
    """
    if len(graph.outputs) != 1 or graph.outputs[0] not in graph.producers:
        raise CompileError(
            "a plan needs exactly one output that is computed",
            where=graph.name,
            got=", ".join(map(str, graph.outputs)),
        )
    assignment = _Assignment(graph, regions)
    steps = []
    for number, (region, (backend, kernel)) in enumerate(zip(regions, kernels, strict=True)):
        operands = tuple(assignment.operand(value) for value in region.inputs)
        results = assignment.results(number)
        workspace = workspaces[number] if workspaces else 0
        if backend == "torch":
            kept = [value for value in region.outputs if assignment.operand(value) not in operands]
            workspace = workspace + _made_besides(graph, region, kept)
        step = Step(backend, kernel, region.nodes, operands, results, (), region.scope, region.name)
        steps.append(replace(step, workspace=workspace))
    slots, output = assignment.finished(), assignment.slot_of[graph.outputs[0]]
    frees: list[list[int]] = [[] for _ in steps]
    for number, slot in enumerate(slots):
        if number != output:
            frees[slot.last].append(number)
    freeing = [replace(step, frees=tuple(frees[n])) for n, step in enumerate(steps)]
    return MemoryPlan(slots, tuple(freeing), assignment.inputs, output)


def _made_besides(graph: Graph, region: Region, kept: Sequence[Value]) -> Dim:
    """Bytes of what a region's nodes make, without views and the values in slots of their own."""
    nodes = [graph.nodes[place] for place in region.nodes]
    made = [value for node in nodes if not is_view(node.op) for value in node.outputs]
    return sum((nbytes(value.type) for value in made if value not in kept), 0)


class _Assignment:
    """Slots so far, and what they hold."""

    def __init__(self, graph: Graph, regions: Sequence[Region]) -> None:
        self.graph = graph
        self.regions = regions
        self.slots: list[BufferSlot] = []
        self.slot_of: dict[Value, int] = {}
        self.inputs: dict[str, int] = {}
        self._last_use = {value: n for n, region in enumerate(regions) for value in region.inputs}
        self._last_use.update(dict.fromkeys(graph.outputs, len(regions)))
        for value in graph.inputs:
            if not isinstance(value.type, StateType):
                self.inputs[value.name] = self._allocate(value, 0)

    def operand(self, value: Value) -> Operand:
        """Where ``value`` is read."""
        if value.is_weight:
            return f"@{value.name}"
        if isinstance(value.type, StateType):
            return f"%{state_root(self.graph, value).name}"
        return self.slot_of[value]

    def results(self, number: int) -> tuple[int, ...]:
        """Slots of what a region makes, in order."""
        found: list[int] = []
        for value in self.regions[number].outputs:
            if isinstance(value.type, StateType):
                continue
            place = self._in_place(number, value, found)
            found.append(self._allocate(value, number) if place is None else place)
            self._extend(found[-1], value)
        return tuple(found)

    def finished(self) -> tuple[BufferSlot, ...]:
        """The slots; none lives past the last step."""
        final = len(self.regions) - 1
        return tuple(replace(slot, last=min(slot.last, final)) for slot in self.slots)

    def _allocate(self, value: Value, number: int) -> int:
        slot = len(self.slots)
        self.slots.append(BufferSlot(nbytes(value.type), str(value), number, number))
        self._extend(slot, value)
        return slot

    def _extend(self, slot: int, value: Value) -> None:
        """Let ``slot`` live as long as ``value`` is read."""
        self.slot_of[value] = slot
        last = max(self.slots[slot].last, self._last_use.get(value, 0))
        self.slots[slot] = replace(self.slots[slot], last=last)

    def _in_place(self, number: int, result: Value, taken: Sequence[int]) -> int | None:
        """The slot of an operand that ``result`` may overwrite."""
        region = self.regions[number]
        for value in region.inputs:
            if value in self.graph.producers and not isinstance(value.type, StateType):
                slot = self.slot_of[value]
                dead = self.slots[slot].last == number and slot not in taken
                if dead and reads_where_it_writes(self.graph, region, value, result):
                    return slot
        return None
