"""A plan that computes its graph is accepted; any that computes something else is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from graphopt.errors import ArtifactError
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState
from graphopt.plan import Plan, Step
from graphopt.runtime.plan_check import check_plan
from tests.runtime.tiny_decoder import write_decoder

Change = Callable[[Plan], Plan]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Plan, Graph]:
    artifact = write_decoder(tmp_path_factory.mktemp("plan") / "tiny.gopt")
    return artifact.plan, parse_graph(artifact.graph_text())


def with_steps(change: Callable[[list[Step]], object]) -> Change:
    """The plan in one piece, with its list of steps changed."""

    def changed(plan: Plan) -> Plan:
        steps = list(plan.steps())
        change(steps)
        return replace(plan, pieces=(replace(plan.pieces[0], steps=tuple(steps)),))

    return changed


def step(kernel: str, **values: object) -> Change:
    """The plan with the first step of ``kernel`` changed."""

    def change(steps: list[Step]) -> None:
        place = next(n for n, one in enumerate(steps) if one.kernel == kernel)
        steps[place] = replace(steps[place], **values)

    return with_steps(change)


def swapped_inputs(plan: Plan) -> Plan:
    inputs = dict(plan.inputs)
    inputs["token_ids"], inputs["positions"] = inputs["positions"], inputs["token_ids"]
    return replace(plan, inputs=inputs)


def wider_window(plan: Plan) -> Plan:
    first, second = plan.state.layers
    other = LayerState(second.heads, second.key_size, second.value_size, second.dtype, 6)
    return replace(plan, state=replace(plan.state, layers=(first, other)))


def early_attention(steps: list[Step]) -> None:
    """The first attention before the write that it is to see."""
    write = next(n for n, one in enumerate(steps) if one.kernel == "kv_write")
    read = next(n for n, one in enumerate(steps) if one.kernel == "attention")
    steps.insert(write, steps.pop(read))


def slot_of(kernel: str, **values: object) -> Change:
    """The plan with the first slot that a step of ``kernel`` writes changed."""

    def changed(plan: Plan) -> Plan:
        number = next(one.results[0] for one in plan.steps() if one.kernel == kernel)
        slots = list(plan.slots)
        slots[number] = replace(slots[number], **values)
        return replace(plan, slots=tuple(slots))

    return changed


def short_output(plan: Plan) -> Plan:
    """The output dies with the step before the last, which leaves its slot alone."""
    slots = list(plan.slots)
    slots[plan.output] = replace(slots[plan.output], last=slots[plan.output].last - 1)
    return replace(plan, slots=tuple(slots))


def shared_input(plan: Plan) -> Plan:
    return replace(plan, inputs={**plan.inputs, "slots": plan.inputs["positions"]})


def written_input(plan: Plan) -> Plan:
    """The first step writes over an input."""
    return step("embed", results=(plan.inputs["rows"],))(plan)


CHANGES: dict[str, tuple[Change, str]] = {
    "inputs exchanged": (swapped_inputs, "does not read"),
    "an input renamed": (lambda plan: replace(plan, inputs={"ids": 0}), "inputs of plan"),
    "another state": (wider_window, "state of plan"),
    "another vocabulary": (
        lambda plan: replace(plan, limits=replace(plan.limits, vocab_size=28)),
        "vocabulary of plan",
    ),
    "another output": (lambda plan: replace(plan, output=plan.inputs["rows"]), "output of plan"),
    "a step left out": (with_steps(lambda steps: steps.pop()), "nodes of plan"),
    "a step twice": (with_steps(lambda steps: steps.append(steps[-1])), "or anew"),
    "an empty step": (step("silu", nodes=()), "computes nothing"),
    "a node too far": (step("silu", nodes=(10_000,)), "graph lacks"),
    "the order reversed": (with_steps(lambda steps: steps.reverse()), "does not read"),
    "attention too early": (with_steps(early_attention), "does not read"),
    "an operand missing": (step("silu", operands=()), "does not fit"),
    "another weight": (step("embed", operands=(0, "@places")), "does not read"),
    "a weight for a value": (step("silu", operands=("@embed",)), "does not read"),
    "another state's name": (step("kv_write", operands=("%other",) * 4), "does not read"),
    "a slot too small": (slot_of("silu", nbytes=4), "another size"),
    "a slot of another sequence length": (slot_of("silu", nbytes=96 * sym("S")), "another size"),
    "a slot that lives later": (slot_of("silu", first=40, last=41), "outside its life"),
    "a slot that dies at once": (slot_of("embed", last=0), "outside its life"),
    "an output that dies": (short_output, "outside its life"),
    "two inputs in one slot": (shared_input, "two inputs share a slot"),
    "an input overwritten": (written_input, "or an input"),
    "a slot freed too early": (step("embed", frees=(0, 1, 2, 3, 4, 5, 6, 7)), "does not read"),
}


def test_the_compilers_plan_is_accepted(made):
    check_plan(*made)


@pytest.mark.parametrize("name", CHANGES)
def test_any_other_plan_is_refused(made, name):
    plan, graph = made
    change, message = CHANGES[name]
    with pytest.raises(ArtifactError, match=message):
        check_plan(change(plan), graph)
