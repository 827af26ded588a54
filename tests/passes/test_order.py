"""The order has as few runs as any, respects what depends on what, and changes nothing in vain."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.order import count_runs, dependences, order_regions
from graphopt.region import Region, make_region

T = sym("T")
ROWS = TensorType(DType.F32, (T, 1, 8))


def regions_of(graph: Graph) -> tuple[Region, ...]:
    return tuple(make_region(graph, [place]) for place in range(len(graph.nodes)))


def fewest(needs: Sequence[set[int]], kinds: Sequence[str], alone: Collection[str]) -> int:
    """The fewest runs of any order, by trying them all: over what is done and the last kind."""

    @cache
    def best(done: frozenset[int], last: str) -> int:
        if len(done) == len(kinds):
            return 0
        ready = [n for n in range(len(kinds)) if n not in done and needs[n] <= done]
        return min(
            best(done | {n}, kinds[n]) + (kinds[n] not in alone and kinds[n] != last) for n in ready
        )

    return best(frozenset(), "nothing yet")


def random_graph(data: st.DataObject, most: int) -> Graph:
    """Nodes that read any earlier ones, and some that write and read a state."""
    b = GraphBuilder("g")
    live = [b.input("x", ROWS)]
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    starts = b.input("starts", TensorType(DType.I32, (sym("S") + 1,)))
    lengths = b.input("lengths", TensorType(DType.I32, (sym("S"),)))
    tables = b.input("tables", TensorType(DType.I32, (sym("S"), sym("P"))))
    kv = b.input("kv", StateType("kv", (LayerState(1, 8, 8, DType.F32),) * most))
    for layer in range(data.draw(st.integers(1, most))):
        a, c = data.draw(st.sampled_from(live)), data.draw(st.sampled_from(live))
        match data.draw(st.sampled_from(["add", "add", "write", "read"])):
            case "add":
                live.append(b.one("add", [a, c]))
            case "write":
                kv = b.one("kv_write", [kv, a, c, slots], {"layer": layer})
            case "read":
                attrs = {"layer": 0, "scale": 1.0, "window": 0, "softcap": 0.0}
                live.append(b.one("attention", [a, kv, starts, lengths, tables], attrs))
    return b.finish([live[-1]])


def check(
    graph: Graph, regions: Sequence[Region], kinds: Sequence[str], alone: Collection[str]
) -> None:
    ordered = order_regions(graph, regions, kinds, alone)
    assert sorted(ordered, key=lambda region: region.nodes) == list(regions)
    places = [ordered.index(region) for region in regions]
    needs = dependences(graph, regions)
    assert all(places[before] < places[n] for n, some in enumerate(needs) for before in some)
    found = count_runs([kinds[regions.index(region)] for region in ordered], alone)
    assert found == fewest(needs, kinds, alone)
    if found == count_runs(kinds, alone):
        assert ordered == tuple(regions)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_two_kinds_and_brute_force(data: st.DataObject) -> None:
    graph = random_graph(data, 9)
    regions = regions_of(graph)
    kinds = [data.draw(st.sampled_from(["", "torch"])) for _ in regions]
    check(graph, regions, kinds, alone=())
    check(graph, regions, kinds, alone={"torch"})


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_three_kinds_and_brute_force(data: st.DataObject) -> None:
    graph = random_graph(data, 9)
    regions = regions_of(graph)
    kinds = [data.draw(st.sampled_from(["", "torch", "attention"])) for _ in regions]
    check(graph, regions, kinds, alone={"attention"})
    check(graph, regions, kinds, alone=())


def test_a_state_is_read_before_it_is_overwritten() -> None:
    b = GraphBuilder("g")
    x, slots = b.input("x", ROWS), b.input("slots", TensorType(DType.I64, (T,)))
    starts = b.input("starts", TensorType(DType.I32, (sym("S") + 1,)))
    lengths = b.input("lengths", TensorType(DType.I32, (sym("S"),)))
    tables = b.input("tables", TensorType(DType.I32, (sym("S"), sym("P"))))
    kv = b.input("kv", StateType("kv", (LayerState(1, 8, 8, DType.F32),)))
    first = b.one("kv_write", [kv, x, x, slots], {"layer": 0})
    attrs = {"layer": 0, "scale": 1.0, "window": 0, "softcap": 0.0}
    mixed = b.one("attention", [x, first, starts, lengths, tables], attrs)
    b.one("kv_write", [first, x, x, slots], {"layer": 0})
    graph = b.finish([mixed])
    regions = regions_of(graph)
    assert dependences(graph, regions) == [set(), {0}, {0, 1}]
    kinds = ["write", "read", "write"]
    assert order_regions(graph, regions, kinds) == regions


def test_regions_keep_as_close_to_their_order_as_the_runs_permit() -> None:
    """Two independent chains of three kinds: only what has to move moves."""
    b = GraphBuilder("g")
    x, y = b.input("x", ROWS), b.input("y", ROWS)
    first = b.one("neg", [x])
    second = b.one("exp", [first])
    third = b.one("neg", [y])
    graph = b.finish([b.one("add", [second, b.one("exp", [third])])])
    regions = regions_of(graph)
    ordered = order_regions(graph, regions, ["a", "b", "a", "b", "b"])
    assert ordered == tuple(regions[n] for n in (0, 2, 1, 3, 4))


def test_many_layers_are_ordered_quickly() -> None:
    b = GraphBuilder("g")
    x = b.input("x", ROWS)
    for _ in range(400):
        x = b.one("add", [b.one("neg", [x]), b.one("exp", [x])])
    graph = b.finish([x])
    regions = regions_of(graph)
    kinds = ["torch" if graph.nodes[region.nodes[0]].op == "exp" else "" for region in regions]
    ordered = order_regions(graph, regions, kinds)
    assert count_runs([kinds[regions.index(region)] for region in ordered], ()) <= 801
