"""A slot holds one value after another, each while it is needed, and no two values at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import CompileError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.memory import MemoryPlan, plan_memory
from graphopt.region import make_region
from tests.passes.plans import computing, node_regions, planned, replay, traced, with_views

T = sym("T")


def rows(size: int = 8) -> TensorType:
    return TensorType(DType.F32, (T, size))


def memory_of(graph: Graph, backend: str = "kernels") -> MemoryPlan:
    regions = node_regions(graph)
    plan = plan_memory(graph, regions, [(backend, "any")] * len(regions))
    replay(graph, regions, plan)
    return plan


def test_a_chain_is_computed_in_one_place_and_never_in_the_input() -> None:
    b = GraphBuilder("g")
    x = b.input("x", rows())
    for _ in range(10):
        x = b.one("neg", [x])
    plan = memory_of(b.finish([x]))
    assert len(plan.slots) == 2
    assert [step.results for step in plan.steps] == [(plan.output,)] * 10
    assert (plan.slots[0].first, plan.slots[0].last) == (0, 0)
    assert (plan.slots[1].first, plan.slots[1].last) == (0, 9)


def test_a_value_that_is_read_again_is_kept() -> None:
    b = GraphBuilder("g")
    x = b.one("neg", [b.input("x", rows())])
    y = b.one("exp", [x])
    plan = memory_of(b.finish([b.one("add", [x, y])]))
    assert [step.results for step in plan.steps] == [(1,), (2,), (1,)]
    assert [step.frees for step in plan.steps] == [(0,), (), (2,)]


def test_slots_of_equal_size_are_still_apart() -> None:
    b = GraphBuilder("g")
    x = b.input("x", rows())
    w = b.weight("w", TensorType(DType.F32, (8, 8)))
    for _ in range(3):
        x = b.one("linear", [x, w])
    plan = memory_of(b.finish([x]))
    assert [(slot.first, slot.last) for slot in plan.slots] == [(0, 0), (0, 1), (1, 2), (2, 2)]


def test_views_take_no_slot_and_keep_their_base_alive() -> None:
    b = GraphBuilder("g")
    x = b.one("exp", [b.input("x", rows())])
    turned = b.one("permute", [b.one("reshape", [x], {"shape": (T, 2, 4)})], {"dims": (1, 0, 2)})
    other = b.one("neg", [b.one("neg", [b.input("y", TensorType(DType.F32, (2, T, 4)))])])
    plan = memory_of(b.finish([b.one("add", [other, turned])]))
    (slot,) = (slot for slot in plan.slots if slot.holds == str(x))
    assert slot.last == len(plan.steps) - 1
    assert len(plan.slots) == 4
    assert plan.slots[plan.output] is not slot


def test_state_takes_no_slot_and_keeps_its_name() -> None:
    b = GraphBuilder("g")
    kv = b.input("kv", StateType("kv", (LayerState(1, 8, 8, DType.F32),) * 2))
    k = b.input("k", TensorType(DType.F32, (T, 1, 8)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    kv = b.one("kv_write", [kv, k, k, slots], {"layer": 0})
    kv = b.one("kv_write", [kv, k, k, slots], {"layer": 1})
    plan = memory_of(b.finish([b.one("neg", [k])]))
    assert set(plan.inputs) == {"k", "slots"}
    assert all("%kv" in step.operands and not step.results for step in plan.steps[:2])


def test_an_output_that_is_read_by_the_last_step_is_not_overwritten() -> None:
    b = GraphBuilder("g")
    kv = b.input("kv", StateType("kv", (LayerState(1, 8, 8, DType.F32),)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    k = b.one("neg", [b.input("k", TensorType(DType.F32, (T, 1, 8)))])
    b.one("kv_write", [kv, k, k, slots], {"layer": 0})
    plan = memory_of(b.finish([k]))
    assert plan.slots[plan.output].last == len(plan.steps) - 1
    assert not any(plan.output in step.frees for step in plan.steps)


def test_what_a_region_keeps_inside_takes_no_slot_but_pytorch_needs_room_for_it() -> None:
    b = GraphBuilder("g")
    x = b.one("exp", [b.input("x", rows())])
    graph = b.finish([b.one("neg", [b.one("cast", [b.one("silu", [x])], {"dtype": DType.BF16})])])
    regions = [make_region(graph, [0]), make_region(graph, [1, 2, 3], family="pointwise")]
    plan = plan_memory(graph, regions, [("kernels", "a"), ("kernels", "b")], [0, 64 * T])
    replay(graph, regions, plan)
    assert len(plan.slots) == 3
    assert [step.workspace for step in plan.steps] == [0, 64 * T]
    plan = plan_memory(graph, regions, [("torch", "a"), ("torch", "b")])
    assert [step.workspace for step in plan.steps] == [0, 8 * 4 * T + 8 * 2 * T]


def test_pytorch_computes_in_place_by_making_another_tensor_first() -> None:
    b = GraphBuilder("g")
    x = b.one("exp", [b.input("x", rows())])
    plan = memory_of(b.finish([b.one("neg", [x])]), "torch")
    assert plan.steps[1].operands == plan.steps[1].results
    assert [step.workspace for step in plan.steps] == [0, 32 * T]


@pytest.mark.parametrize("make", ["weight", "input"])
def test_an_output_that_nothing_computes_is_refused(make: str) -> None:
    b = GraphBuilder("g")
    value: Value = getattr(b, make)("w", TensorType(DType.F32, (3,)))
    with pytest.raises(CompileError, match="exactly one output"):
        plan_memory(b.finish([value]), (), ())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_real_decoders(family: str) -> None:
    graph = traced(family)
    regions, memory, _ = planned(graph)
    replay(graph, regions, memory)
    assert any(set(step.results) & set(step.operands) for step in memory.steps)


def random_graph(data: st.DataObject, most: int = 25) -> Graph:
    """A graph of pointwise, reducing and opaque nodes with views between them."""
    b = GraphBuilder("g")
    live = [b.input(f"x{i}", rows(size)) for i, size in enumerate((8, 16))]
    for _ in range(data.draw(st.integers(1, most))):
        a = data.draw(st.sampled_from(live))
        same = [value for value in live if value.type == a.type]
        match data.draw(st.sampled_from(["neg", "add", "topk", "softmax", "flat", "half"])):
            case "neg":
                live.append(b.one("neg", [a]))
            case "add":
                live.append(b.one("add", [a, data.draw(st.sampled_from(same))]))
            case "topk":
                attrs = {"k": 8, "dim": 1, "largest": True, "sorted": True}
                live.append(b.node("topk", [a], attrs)[0])
            case "softmax":
                live.append(b.one("softmax", [a], {"dim": 1}))
            case "flat":
                assert isinstance(a.type, TensorType)
                turned = b.one("permute", [a], {"dims": (1, 0)})
                live.append(b.one("neg", [b.one("permute", [turned], {"dims": (1, 0)})]))
            case "half":
                part = b.one("slice", [a], {"dim": 1, "start": 0, "end": 8, "step": 1})
                live.append(b.one("exp", [part]))
    last = live[-1] if live[-1].name not in ("x0", "x1") else b.one("neg", [live[-1]])
    return b.finish([last])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    graph = random_graph(data)
    regions, memory, _ = planned(graph)
    replay(graph, regions, memory)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_regions_of_several_nodes(data: st.DataObject) -> None:
    """Stretches of the running order as regions, of families that overwrite operands and not."""
    graph = random_graph(data)
    places = computing(graph)
    regions = []
    while places:
        count = data.draw(st.integers(1, 4))
        family = data.draw(st.sampled_from(["pointwise", "row", "opaque"]))
        regions.append(make_region(graph, with_views(graph, places[:count]), family=family))
        del places[:count]
    ordered, memory, _ = planned(graph, [one for one in regions if one.outputs])
    replay(graph, ordered, memory)
