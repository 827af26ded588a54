"""Plans for tests: graphs of real families as regions of one node each, and plans replayed.

A region here is a node and the views it reads through, as the smallest regions of a compile are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle

from graphopt.frontend.hf import trace_decoder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import OPS, is_view
from graphopt.ir.types import LayerState, StateType, TensorType, nbytes
from graphopt.passes.manager import run_passes
from graphopt.passes.memory import MemoryPlan, plan_memory
from graphopt.passes.partition import WhyNot, in_few_pieces, partition, why_not_on
from graphopt.passes.remove_identities import RemoveIdentities
from graphopt.passes.share_common import ShareCommon
from graphopt.plan import Limits, Plan
from graphopt.region import Region, make_region
from graphopt.target import Target
from tests.models.families import small_config

CPU, CUDA = why_not_on(Target("cpu")), why_not_on(Target("cuda", "sm_90"))
REDUCTIONS = ("rms_norm", "softmax", "mean", "sum")


@cache
def traced(family: str, layers: int | None = None) -> Graph:
    """The small decoder of a family, traced and cleaned; with more layers of the same kinds."""
    config = small_config(family)
    if layers is not None:
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = [kind for kind, _ in zip(cycle(config.layer_types), range(layers))]
    graph = trace_decoder(config, DType.BF16).graph
    return run_passes(graph, (RemoveIdentities(), ShareCommon()))[0]


def family_of(node: Node) -> str:
    """The kernel family of a node alone."""
    if node.op in OPS and OPS[node.op].scalar is not None:
        return "pointwise"
    return {"linear": "linear", **dict.fromkeys(REDUCTIONS, "row")}.get(node.op, "opaque")


def node_regions(graph: Graph) -> tuple[Region, ...]:
    """One region for each node that computes, with the views it reads through."""
    return tuple(
        make_region(graph, with_views(graph, [place]), family=family_of(graph.nodes[place]))
        for place in computing(graph)
    )


def computing(graph: Graph) -> list[int]:
    """Positions of the nodes that are not views."""
    return [
        place
        for place, node in enumerate(graph.nodes)
        if not is_view(node.op) or node.output in graph.outputs
    ]


def with_views(graph: Graph, positions: Sequence[int]) -> list[int]:
    """The positions, and those of the views that their nodes read through."""
    places = {node: place for place, node in enumerate(graph.nodes)}
    needed, waiting = set(), list(positions)
    while waiting:
        needed.add(found := waiting.pop())
        made = [graph.producers.get(value) for value in graph.nodes[found].inputs]
        waiting += [places[one] for one in made if one is not None and is_view(one.op)]
    return sorted(needed)


def planned(
    graph: Graph,
    regions: Sequence[Region] | None = None,
    *,
    why_not: WhyNot = CPU,
    backend: Callable[[Region], str] = lambda region: "kernels",
) -> tuple[tuple[Region, ...], MemoryPlan, Plan]:
    """Regions in the plan's order, their memory, and the whole plan."""
    regions = tuple(regions or node_regions(graph))
    kernels = [(backend(region), region.name) for region in regions]
    regions, ordered = in_few_pieces(graph, regions, kernels, why_not)
    memory = plan_memory(graph, regions, ordered)
    states = [value.type for value in graph.inputs if isinstance(value.type, StateType)]
    output = graph.outputs[0].type
    size = output.shape[-1] if isinstance(output, TensorType) else 1
    plan = Plan(
        name=graph.name,
        target="cpu",
        dtype=DType.F32,
        block_size=16,
        state=states[0] if states else StateType("kv", (LayerState(1, 1, 1, DType.F32),)),
        limits=Limits(64, size if isinstance(size, int) else 1, 8),
        inputs=memory.inputs,
        output=memory.output,
        slots=memory.slots,
        pieces=partition(graph, memory.steps, why_not),
    )
    return regions, memory, plan


def replay(graph: Graph, regions: Sequence[Region], plan: MemoryPlan) -> None:
    """Run the plan on names instead of numbers: each operand must hold the value it should."""
    held: dict[int, Value] = {slot: graph.input(name) for name, slot in plan.inputs.items()}
    given = set(held)
    assert len(held) == len(plan.inputs)
    for number, (region, step) in enumerate(zip(regions, plan.steps, strict=True)):
        for value, operand in zip(region.inputs, step.operands, strict=True):
            if isinstance(operand, int):
                assert held[operand] is value
                assert plan.slots[operand].first <= number <= plan.slots[operand].last
            else:
                assert operand[1:] == value.name or isinstance(value.type, StateType)
        outputs = [v for v in region.outputs if not isinstance(v.type, StateType)]
        for value, slot in zip(outputs, step.results, strict=True):
            assert slot not in given, "an input is overwritten"
            assert slot not in held or slot in step.operands, "a slot is written while it is alive"
            assert plan.slots[slot].nbytes == nbytes(value.type)
            assert plan.slots[slot].first <= number <= plan.slots[slot].last
            held[slot] = value
        for slot in step.frees:
            assert plan.slots[slot].last == number
            del held[slot]
    assert held == {plan.output: graph.outputs[0]}, "something was never freed"
