"""Whether a plan computes exactly its graph: every step finds in its slots what the graph says.

A plan and a graph may each be well formed and still not belong together, such as after files of two
artifacts were mixed. Running them would give numbers, wrong ones. So every executor walks the plan
once, with names in place of numbers, before it runs anything. The walk also shows that each slot is
large enough for its values and is used only while it lives, on which the arena's layout relies.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.errors import ArtifactError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.ops import is_view
from graphopt.ir.types import StateType, TensorType, nbytes
from graphopt.plan import Operand, Plan, Step
from graphopt.region import Region, make_region, state_root

# The input that says how far a token sees, see ``StepInputs``.
REACHES = "reaches"


def check_plan(plan: Plan, graph: Graph) -> None:
    """Demand that ``plan`` runs each node of ``graph`` on the values that the graph gives it.

    Raises:
        ArtifactError: it does not; the step is named.
    """
    states = [value.type for value in graph.inputs if isinstance(value.type, StateType)]
    if states != [plan.state]:
        raise _unfit("the state", ", ".join(map(str, states)) or "none", str(plan.state))
    tensors = {v.name: v for v in graph.inputs if not isinstance(v.type, StateType)}
    if tensors.keys() != plan.inputs.keys():
        raise _unfit("the inputs", ", ".join(tensors), ", ".join(plan.inputs))
    walk = _Walk(plan, graph, {slot: tensors[name] for name, slot in plan.inputs.items()})
    for number, step in enumerate(plan.steps()):
        walk.run(number, step)
    missing = sum(
        place not in walk.computed and not is_view(node.op)
        for place, node in enumerate(graph.nodes)
    )
    if missing:
        raise _unfit("the nodes", f"{len(graph.nodes)} nodes", f"steps for all but {missing}")
    (output,) = graph.outputs if len(graph.outputs) == 1 else (None,)
    if output is None or walk.held.get(plan.output) is not output:
        raise _unfit("the output", str(output), f"slot {plan.output} with something else")
    if plan.slots[plan.output].last + 1 != max(1, walk.steps):
        raise ArtifactError("the output does not live to the end", got=f"slot {plan.output}")
    shape = output.type.shape if isinstance(output.type, TensorType) else ()
    what, size = "the vocabulary", plan.limits.vocab_size
    if plan.embedding is not None:
        what, size = "the size of a row", plan.embedding.size
    if shape[-1:] != (size,):
        raise _unfit(what, str(output.type), str(size))
    sees_ahead = plan.embedding is not None and plan.embedding.whole
    if REACHES in tensors and not sees_ahead:
        raise _unfit("what tokens see", f"the input {REACHES}", "texts in parts")


class _Walk:
    """What each slot holds, and which nodes were computed, step after step."""

    def __init__(self, plan: Plan, graph: Graph, held: dict[int, Value]) -> None:
        self.graph = graph
        self.held = held
        self.computed: set[int] = set()
        self.steps = 0
        self._slots = plan.slots
        self._inputs = frozenset(plan.inputs.values())
        self._states = {value for value in graph.inputs if isinstance(value.type, StateType)}
        if len(self._inputs) != len(plan.inputs):
            raise ArtifactError("two inputs share a slot", got=dict(plan.inputs))
        for slot in self._inputs:
            self._check_slot(0, slot, held[slot])

    def run(self, number: int, step: Step) -> None:
        """Follow one step."""
        if any(place >= len(self.graph.nodes) for place in step.nodes):
            raise ArtifactError("a step names nodes that the graph lacks", got=step.nodes)
        own = {place for place in step.nodes if not is_view(self.graph.nodes[place].op)}
        if not step.nodes or self.computed & own:
            raise ArtifactError("a step computes nothing, or anew", where=step.kernel)
        region = make_region(self.graph, step.nodes)
        outputs = [value for value in region.outputs if not isinstance(value.type, StateType)]
        if len(region.inputs) != len(step.operands) or len(outputs) != len(step.results):
            raise ArtifactError(
                "a step does not fit its nodes",
                where=step.scope or step.kernel,
                got=f"{len(step.operands)} operands, {len(step.results)} results",
                expected=f"{len(region.inputs)} operands, {len(outputs)} results",
            )
        for operand, value in zip(step.operands, region.inputs, strict=True):
            if not self._reads(operand, value):
                raise ArtifactError(
                    "a step does not read what its nodes need",
                    where=step.scope or step.kernel,
                    got=f"slot {operand}" if isinstance(operand, int) else operand,
                    expected=str(value),
                    next="compile the checkpoint again: plan and graph do not belong together",
                )
            if isinstance(operand, int):
                self._check_slot(number, operand, value)
        self._advance_states(region)
        self.computed |= set(step.nodes)
        self.steps = number + 1
        self._write(number, step, outputs)
        for slot in step.frees:
            self.held.pop(slot, None)

    def _write(self, number: int, step: Step, outputs: Sequence[Value]) -> None:
        if len(set(step.results)) != len(step.results) or self._inputs & set(step.results):
            raise ArtifactError(
                "a step writes a slot twice, or an input",
                where=step.scope or step.kernel,
                got=", ".join(f"slot {slot}" for slot in step.results),
            )
        for slot, value in zip(step.results, outputs, strict=True):
            self._check_slot(number, slot, value)
            self.held[slot] = value

    def _check_slot(self, number: int, slot: int, value: Value) -> None:
        """Demand that ``slot`` lives in step ``number`` and has the bytes that ``value`` needs."""
        found = self._slots[slot]
        if found.nbytes != nbytes(value.type):
            raise ArtifactError(
                "a slot has another size than its value",
                where=f"slot {slot}",
                got=str(found.nbytes),
                expected=f"{nbytes(value.type)} for {value}: {value.type}",
            )
        if not found.first <= number <= found.last:
            raise ArtifactError(
                "a slot is used outside its life",
                where=f"slot {slot}",
                got=f"step {number}",
                expected=f"{found.first} to {found.last}",
            )

    def _reads(self, operand: Operand, value: Value) -> bool:
        if value.is_weight:
            return operand == f"@{value.name}"
        if isinstance(value.type, StateType):
            # State is updated in place, so only its latest version can be read.
            return operand == f"%{state_root(self.graph, value).name}" and value in self._states
        return isinstance(operand, int) and self.held.get(operand) is value

    def _advance_states(self, region: Region) -> None:
        for place in region.nodes:
            node = self.graph.nodes[place]
            for value in node.outputs:
                if isinstance(value.type, StateType):
                    self._states -= set(node.inputs)
                    self._states.add(value)


def _unfit(what: str, graph: str, plan: str) -> ArtifactError:
    return ArtifactError(
        f"{what} of plan and graph differ",
        got=f"the graph has {graph}; the plan has {plan}",
        next="compile the checkpoint again: they do not belong together",
    )
