"""A region's bytes are those that cross its border, each once."""

from __future__ import annotations

from graphopt.ir import ops
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.graph import Graph
from graphopt.ir.shape import evaluate
from graphopt.region import make_region
from graphopt.report.costs import lives, region_bytes, region_flops
from graphopt.report.items import Item, node_items, step_items

from .models import T, decoder, tensor, two_layers

SIZES = {"T": 7, "S": 2, "R": 3, "P": 5, "context": 40}
ROW = 7 * 4 * 2  # bytes of bf16[T, 4]


def whole(graph: Graph) -> Item:
    region = make_region(graph, range(len(graph.nodes)))
    return Item("all", graph.nodes, region.inputs, region.outputs, "")


def test_a_node_alone_costs_what_the_operator_table_says() -> None:
    for item in node_items(decoder(2)):
        (node,) = item.nodes
        assert region_bytes(item) == ops.bytes_moved(node)
        assert region_flops(item) == ops.flops(node)


def test_what_stays_inside_costs_nothing() -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", tensor(T, 4)), b.input("y", tensor(T, 4))
    graph = b.finish([b.one("mul", [b.one("silu", [b.one("add", [x, y])]), y])])
    assert evaluate(region_bytes(whole(graph)), SIZES) == 3 * ROW  # x, y once, and the result


def test_a_view_costs_nothing_and_hides_nothing() -> None:
    b = GraphBuilder("g")
    x = b.input("x", tensor(T, 4))
    flat = b.one("reshape", [x], {"shape": (T, 2, 2)})
    graph = b.finish([b.one("add", [b.one("neg", [flat]), b.one("abs", [flat])])])
    assert evaluate(region_bytes(whole(graph)), SIZES) == 2 * ROW


def test_a_value_that_leaves_through_a_view_is_written() -> None:
    b = GraphBuilder("g")
    x = b.input("x", tensor(T, 4))
    graph = b.finish([b.one("reshape", [b.one("neg", [x])], {"shape": (T, 2, 2)})])
    assert evaluate(region_bytes(whole(graph)), SIZES) == 2 * ROW


def test_rows_of_a_table_cost_what_is_read_of_it() -> None:
    b = GraphBuilder("g")
    ids = b.input("ids", tensor(T, dtype=decoder(1).inputs[0].type.dtype))  # type: ignore[union-attr]
    rows = b.one("embed", [ids, b.weight("table", tensor(1000, 4))])
    graph = b.finish([b.one("neg", [rows])])
    assert evaluate(region_bytes(whole(graph)), SIZES) == 7 * 8 + 2 * ROW


def test_queries_that_stay_inside_are_not_read_by_attention() -> None:
    source = two_layers()
    heads = next(i for i in step_items(source.graph, source.plan) if i.family == "attention")
    alone = next(node for node in heads.nodes if node.op == "attention")
    assert region_bytes(heads) == ops.bytes_moved(alone)


def test_lives() -> None:
    source = two_layers()
    found = lives(source.plan, step_items(source.graph, source.plan))
    assert [life.slot for life in found] == list(range(len(source.plan.slots)))
    assert [life.names for life in found[:2]] == [("%token_ids",), ("%rows",)]
    assert {life.first for life in found[: len(source.plan.inputs)]} == {-1}
    assert found[-1].names == ("%16",)
    assert found[-1].first == sum(len(piece.steps) for piece in source.plan.pieces) - 1
