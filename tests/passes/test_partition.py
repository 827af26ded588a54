"""Pieces cover the steps in order, cut only where needed; each cut but the last says why."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, SourceLocation
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.partition import ATTENTION, BY_PYTORCH, why_not_on
from graphopt.plan import Plan
from graphopt.region import Region
from graphopt.target import Target
from tests.passes.plans import CPU, CUDA, planned, replay, traced
from tests.passes.test_memory import random_graph

T, S, P = sym("T"), sym("S"), sym("P")


def layers(count: int) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 1, 8)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    starts = b.input("starts", TensorType(DType.I32, (S + 1,)))
    lengths = b.input("lengths", TensorType(DType.I32, (S,)))
    tables = b.input("tables", TensorType(DType.I32, (S, P)))
    kv = b.input("kv", StateType("kv", (LayerState(1, 8, 8, DType.F32),) * max(count, 1)))
    for layer in range(count):
        loc = SourceLocation("m.py", 1, f"layers.{layer}")
        x = b.one("neg", [x], loc=loc)
        kv = b.one("kv_write", [kv, x, x, slots], {"layer": layer}, loc=loc)
        attrs = {"layer": layer, "scale": 1.0, "window": 0, "softcap": 0.0}
        x = b.one("attention", [x, kv, starts, lengths, tables], attrs, loc=loc)
    return b.finish([b.one("neg", [x])])


def named(*names: str) -> Callable[[Region], str]:
    """PyTorch for regions of these names."""
    return lambda region: "torch" if region.name in names else "kernels"


def check(plan: Plan) -> None:
    """Names are unique, neighbours differ, every cut but the last has its sentence."""
    assert len({piece.name for piece in plan.pieces}) == len(plan.pieces)
    assert all(piece.steps for piece in plan.pieces)
    assert not any(a.captured and b.captured for a, b in pairwise(plan.pieces))
    assert all(piece.cut.count("\n") == 0 and len(piece.cut) > 20 for piece in plan.pieces[:-1])
    assert plan.pieces[-1].cut == ""


def test_on_a_gpu_attention_stands_alone() -> None:
    _, memory, plan = planned(layers(3), why_not=CUDA)
    check(plan)
    assert [step for piece in plan.pieces for step in piece.steps] == list(memory.steps)
    assert [piece.captured for piece in plan.pieces] == [True, False] * 3 + [True]
    assert [len(piece.steps) for piece in plan.pieces] == [2, 1] * 3 + [1]
    for number, piece in enumerate(plan.pieces[:-1]):
        assert f"layers.{number // 2}: attention" in piece.cut
        assert piece.cut.endswith(ATTENTION)


def test_on_a_gpu_even_two_attentions_in_a_row_are_two_pieces() -> None:
    graph = traced("llama")
    torch = planned(graph, why_not=CUDA, backend=lambda region: "torch")[2]
    assert not any(piece.captured for piece in torch.pieces)
    assert [len(piece.steps) for piece in torch.pieces[1::2]] == [1, 1]
    assert torch.pieces[0].cut.endswith(ATTENTION)


def test_on_a_cpu_compiled_steps_are_one_piece() -> None:
    (piece,) = planned(layers(3))[2].pieces
    assert piece.captured
    assert piece.cut == ""


def test_on_a_cpu_steps_of_pytorch_are_one_piece_that_is_not_captured() -> None:
    (piece,) = planned(layers(3), backend=lambda region: "torch")[2].pieces
    assert not piece.captured


def test_on_a_cpu_pytorch_cuts() -> None:
    _, _, plan = planned(layers(2), backend=named("attention"))
    check(plan)
    assert [piece.captured for piece in plan.pieces] == [True, False, True, False, True]
    assert plan.pieces[0].cut == (
        "layers.0: attention follows and cannot be captured with its neighbours: PyTorch runs it"
    )
    assert plan.pieces[1].cut.startswith("layers.0: attention ends here")


def test_independent_steps_of_pytorch_come_together() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 8)))
    total = x
    for _ in range(4):
        total = b.one("add", [total, b.one("cumsum", [b.one("neg", [x])], {"dim": 1})])
    graph = b.finish([total])
    regions, memory, plan = planned(graph, backend=named("cumsum"))
    replay(graph, regions, memory)
    assert [len(piece.steps) for piece in plan.pieces] == [4, 4, 4]


@pytest.mark.parametrize(
    ("target", "backend", "op", "reason"),
    [
        ("cpu", "cpp", "attention", ""),
        ("cpu:avx2", "torch", "attention", BY_PYTORCH),
        ("cpu", "torch", "neg", BY_PYTORCH),
        ("cuda", "triton", "neg", ""),
        ("cuda:sm_90", "triton", "kv_write", ""),
        ("cuda:sm_90", "triton", "attention", ATTENTION),
        ("cuda:sm_90", "torch", "attention", ATTENTION),
        ("cuda:sm_90", "torch", "neg", BY_PYTORCH),
    ],
)
def test_reasons(target: str, backend: str, op: str, reason: str) -> None:
    graph = layers(1)
    assert why_not_on(Target.parse(target))(backend, graph.nodes_named(op)[:1]) == reason


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    graph = random_graph(data)
    chosen = data.draw(st.sets(st.sampled_from(["neg", "add", "topk", "softmax", "slice+exp"])))
    for why_not in (CPU, CUDA):
        regions, memory, plan = planned(graph, why_not=why_not, backend=named(*chosen))
        replay(graph, regions, memory)
        assert tuple(plan.steps()) == memory.steps
        check(plan)
