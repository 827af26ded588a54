"""Pieces cover the steps in order, attention stands alone, each cut but the last has a reason."""

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, SourceLocation
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.memory import plan_memory
from graphopt.passes.partition import partition
from graphopt.passes.regions import form_regions

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


def test_attention_stands_alone() -> None:
    graph = layers(3)
    regions = form_regions(graph)
    steps = plan_memory(graph, regions, [("torch", "any")] * len(regions)).steps
    pieces = partition(graph, steps)
    assert [step for piece in pieces for step in piece.steps] == list(steps)
    assert [piece.captured for piece in pieces] == [True, False] * 3 + [True]
    assert len({piece.name for piece in pieces}) == len(pieces)
    for number, piece in enumerate(pieces[:-1]):
        assert f"layers.{number // 2}" in piece.cut
    assert pieces[-1].cut == ""


def test_without_attention_there_is_one_piece() -> None:
    graph = layers(0)
    regions = form_regions(graph)
    steps = plan_memory(graph, regions, [("torch", "any")] * len(regions)).steps
    (piece,) = partition(graph, steps)
    assert piece.captured
    assert piece.cut == ""
