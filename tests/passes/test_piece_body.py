"""Equal layers share bodies; whatever changes what is computed changes the body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.memory import plan_memory
from graphopt.passes.piece_body import piece_body
from graphopt.region import make_region
from tests.passes.plans import CUDA, node_regions, planned, traced

T, S, P = sym("T"), sym("S"), sym("P")


def bodies(graph: Graph) -> list[str]:
    return [piece.body for piece in planned(graph, why_not=CUDA)[2].pieces]


def test_the_bodies_of_a_llama_do_not_grow_with_its_layers() -> None:
    few, many = (bodies(traced("llama", count)) for count in (3, 6))
    assert (len(few), len(many)) == (7, 13)
    assert set(few) == set(many)
    assert len(set(many)) == 4, "the first, attention, the middle and the last"
    assert len(set(many[1::2])) == 1
    assert len(set(many[2:-1:2])) == 1


@pytest.mark.slow
def test_a_gemma_has_two_kinds_of_layers() -> None:
    """Five layers with a window, then one without; a piece reaches from attention to attention."""
    graph = traced("gemma3_text", 12)
    windows = [node.attrs["window"] for node in graph.nodes_named("attention")]
    found = bodies(graph)
    attention = found[1::2]
    assert len(set(windows)) == 2
    assert len(set(attention)) == 2
    assert len({*zip(windows, attention, strict=True)}) == 2
    between = [(bool(a), bool(b)) for a, b in pairwise(windows)]
    assert len({*zip(between, found[2:-1:2], strict=True)}) == len(set(between)) == 3


def layer_body(
    number: int = 1,
    *,
    window: int = 0,
    op: str = "silu",
    attrs: Mapping[str, Attr] | None = None,
    rows: int = 8,
    crossed: bool = False,
    backend: str = "kernels",
    workspace: int = 0,
) -> str:
    """The body of one layer of a small model, changed in one way."""
    b = GraphBuilder("g")
    states = (LayerState(1, 8, 8, DType.F32), LayerState(1, 8, 8, DType.F32, window))
    kv = b.input("kv", StateType("kv", (states[1], *states) if number == 2 else states[::1]))
    x, y = (b.input(name, TensorType(DType.F32, (T, 8))) for name in ("x", "y"))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    starts = b.input("starts", TensorType(DType.I32, (S + 1,)))
    lengths = b.input("lengths", TensorType(DType.I32, (S,)))
    tables = b.input("tables", TensorType(DType.I32, (S, P)))
    x, y = (y, x) if crossed else (x, y)
    w = b.weight(f"layers.{number}.w", TensorType(DType.F32, (rows, 8)))
    hidden = b.one("linear", [b.one("sub", [b.one(op, [x], attrs), y]), w])
    k = b.one("reshape", [b.one("neg", [x])], {"shape": (T, 1, 8)})
    kv = b.one("kv_write", [kv, k, k, slots], {"layer": number})
    how = {"layer": number, "scale": 1.0, "window": window, "softcap": 0.0}
    mixed = b.one("attention", [k, kv, starts, lengths, tables], how)
    total = b.one("sum", [mixed], {"dims": (1, 2)})
    graph = b.finish([b.one("add", [hidden, b.one("reshape", [total], {"shape": (T, 1)})])])
    regions = node_regions(graph)
    memory = plan_memory(graph, regions, [(backend, region.name) for region in regions])
    steps = [replace(step, workspace=workspace) for step in memory.steps]
    return piece_body(graph, steps, captured=True)


def test_the_layer_and_its_weights_do_not_matter() -> None:
    assert layer_body(1) == layer_body(1)
    assert layer_body(1) == layer_body(2)
    assert len(layer_body()) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"window": 4},
        {"op": "exp"},
        {"op": "clamp", "attrs": {"min": 0.0, "max": 1.0}},
        {"rows": 16},
        {"backend": "torch"},
        {"workspace": 64},
    ],
    ids=str,
)
def test_what_is_computed_matters(change: dict[str, object]) -> None:
    assert layer_body(**change) != layer_body()  # type: ignore[arg-type]


def test_attributes_matter() -> None:
    narrow, wide = (
        layer_body(op="clamp", attrs={"min": 0.0, "max": bound}) for bound in (1.0, 2.0)
    )
    assert narrow != wide


def test_whether_it_is_captured_matters() -> None:
    graph = traced("gpt2")
    _, memory, _ = planned(graph)
    yes, no = (piece_body(graph, memory.steps, captured=one) for one in (True, False))
    assert yes != no


def test_what_is_computed_in_place_matters() -> None:
    """A function that may overwrite its operand is another than one that may not."""
    graph = traced("gpt2")
    _, memory, _ = planned(graph)
    place = next(n for n, step in enumerate(memory.steps) if set(step.results) & set(step.operands))
    apart = replace(memory.steps[place], results=(len(memory.slots),))
    before, after = (
        piece_body(graph, [step], captured=True) for step in (memory.steps[place], apart)
    )
    assert before != after


def test_two_layers_are_not_one_twice() -> None:
    def written(*layers: int) -> str:
        b = GraphBuilder("g")
        kv = b.input("kv", StateType("kv", (LayerState(1, 4, 4, DType.F32),) * 3))
        k = b.input("k", TensorType(DType.F32, (T, 1, 4)))
        slots = b.input("slots", TensorType(DType.I64, (T,)))
        for layer in layers:
            kv = b.one("kv_write", [kv, k, k, slots], {"layer": layer})
        graph = b.finish([b.one("neg", [k])])
        regions = [make_region(graph, [place]) for place in range(len(graph.nodes))]
        steps = plan_memory(graph, regions, [("kernels", "k")] * len(regions)).steps
        return piece_body(graph, steps, captured=True)

    assert written(0, 1) == written(1, 2) != written(1, 1)
