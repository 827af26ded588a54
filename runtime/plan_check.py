"""Whether a plan computes exactly its graph: every step finds in its slots what the graph says.

A plan and a graph may each be well formed and still not belong together, such as after files of two
artifacts were mixed. Running them would give numbers, wrong ones. So every executor walks the plan
once, with names in place of numbers, before it runs anything.
"""

from __future__ import annotations

from graphopt.errors import ArtifactError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import StateType, TensorType
from graphopt.plan import Operand, Plan, Step
from graphopt.region import Region, make_region, state_root


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
    walk = _Walk(graph, {slot: tensors[name] for name, slot in plan.inputs.items()})
    for step in plan.steps():
        walk.run(step)
    missing = len(graph.nodes) - len(walk.computed)
    if missing:
        raise _unfit("the nodes", f"{len(graph.nodes)} nodes", f"steps for all but {missing}")
    (output,) = graph.outputs if len(graph.outputs) == 1 else (None,)
    if output is None or walk.held.get(plan.output) is not output:
        raise _unfit("the output", str(output), f"slot {plan.output} with something else")
    shape = output.type.shape if isinstance(output.type, TensorType) else ()
    if shape[-1:] != (plan.limits.vocab_size,):
        raise _unfit("the vocabulary", str(output.type), str(plan.limits.vocab_size))


class _Walk:
    """What each slot holds, and which nodes were computed, step after step."""

    def __init__(self, graph: Graph, held: dict[int, Value]) -> None:
        self.graph = graph
        self.held = held
        self.computed: set[int] = set()
        self._states = {value for value in graph.inputs if isinstance(value.type, StateType)}

    def run(self, step: Step) -> None:
        """Follow one step."""
        if any(place >= len(self.graph.nodes) for place in step.nodes):
            raise ArtifactError("a step names nodes that the graph lacks", got=step.nodes)
        if not step.nodes or self.computed & set(step.nodes):
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
        self._advance_states(region)
        self.computed |= set(step.nodes)
        self.held.update(zip(step.results, outputs, strict=True))
        for slot in step.frees:
            self.held.pop(slot, None)

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
