"""Slots are shared only by values of one size whose lives do not overlap."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import CompileError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType, nbytes
from graphopt.passes.memory import MemoryPlan, plan_memory
from graphopt.passes.regions import form_regions
from graphopt.region import Region

T = sym("T")


def planned(graph: Graph) -> tuple[tuple[Region, ...], MemoryPlan]:
    regions = form_regions(graph)
    return regions, plan_memory(graph, regions, [("torch", "any")] * len(regions))


def replay(graph: Graph, regions: tuple[Region, ...], plan: MemoryPlan) -> None:
    """Run the plan on names instead of numbers: each operand must hold the value it should."""
    held: dict[int, Value] = {slot: graph.input(name) for name, slot in plan.inputs.items()}
    assert len(held) == len(plan.inputs)
    for region, step in zip(regions, plan.steps, strict=True):
        for value, operand in zip(region.inputs, step.operands, strict=True):
            if isinstance(operand, int):
                assert held[operand] is value
            else:
                assert operand[1:] == value.name or isinstance(value.type, StateType)
        outputs = [v for v in region.outputs if not isinstance(v.type, StateType)]
        for value, slot in zip(outputs, step.results, strict=True):
            assert slot not in held, "a slot is written while its value is alive"
            assert plan.slots[slot].nbytes == nbytes(value.type)
            held[slot] = value
        for slot in step.frees:
            del held[slot]
    assert held[plan.output] is graph.outputs[0]
    used = {value for node in graph.nodes for value in node.inputs}
    unread = {value for value in graph.inputs if value not in used}
    assert set(held.values()) <= {graph.outputs[0], *unread}, "something was never freed"


def test_a_chain_needs_two_slots() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 8)))
    for _ in range(10):
        x = b.one("neg", [x])
    regions, plan = planned(b.finish([x]))
    replay(b.finish([x]), regions, plan)
    assert len(plan.slots) == 2


def test_state_takes_no_slot_and_keeps_its_name() -> None:
    b = GraphBuilder("g")
    kv = b.input("kv", StateType("kv", (LayerState(1, 8, 8, DType.F32),) * 2))
    k = b.input("k", TensorType(DType.F32, (T, 1, 8)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    kv = b.one("kv_write", [kv, k, k, slots], {"layer": 0})
    kv = b.one("kv_write", [kv, k, k, slots], {"layer": 1})
    _, plan = planned(b.finish([b.one("neg", [k])]))
    assert set(plan.inputs) == {"k", "slots"}
    assert all("%kv" in step.operands and not step.results for step in plan.steps[:2])


def test_an_output_that_nothing_computes_is_refused() -> None:
    b = GraphBuilder("g")
    weight = b.weight("w", TensorType(DType.F32, (3,)))
    with pytest.raises(CompileError, match="exactly one output"):
        planned(b.finish([weight]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    b = GraphBuilder("g")
    sizes = [8, 16]
    live = [b.input(f"x{i}", TensorType(DType.F32, (T, size))) for i, size in enumerate(sizes)]
    for _ in range(data.draw(st.integers(1, 25))):
        a = data.draw(st.sampled_from(live))
        same = [value for value in live if value.type == a.type]
        op = data.draw(st.sampled_from(["neg", "add", "topk"]))
        if op == "neg":
            live.append(b.one("neg", [a]))
        elif op == "add":
            live.append(b.one("add", [a, data.draw(st.sampled_from(same))]))
        else:
            attrs = {"k": 8, "dim": 1, "largest": True, "sorted": True}
            live.append(b.node("topk", [a], attrs)[0])
    graph = b.finish([live[-1]])
    replay(graph, *planned(graph))
