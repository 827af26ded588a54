"""What the page draws: each kind once, each group with names that put the graph together again."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.ir.printer import print_name, print_node
from graphopt.ir.shape import evaluate, parse_dim
from graphopt.report.costs import region_bytes
from graphopt.report.items import Item, node_items, step_items
from graphopt.report.picture import Tables, leaf_of, picture, result_of

from .models import decoder, two_layers


def drawn(layers: int = 3) -> tuple[dict[str, Any], Tables]:
    graph, tables = decoder(layers), Tables()
    return picture(graph, node_items(graph), tables), tables


def name(group: dict[str, Any], reference: int | str) -> str:
    if isinstance(reference, int):
        return f"%{group['values'][reference]}"
    names = group["weights" if reference[0] == "w" else "ports"]
    return f"{'@' if reference[0] == 'w' else '%'}{names[int(reference[1:])]}"


def lines(found: dict[str, Any], tables: Tables) -> list[tuple[int, str]]:
    """The nodes' lines, put together from kinds and groups."""
    types = list(tables.types)
    rows = []
    for group in found["groups"]:
        kind = found["kinds"][group["kind"]]
        number = group["at"]
        for item in kind["items"]:
            for op, ins, outs, attrs, layer, place, module in item["nodes"]:
                results = ", ".join(f"{name(group, v)}: {types[kind['types'][v]]}" for v in outs)
                operands = ", ".join(name(group, v) for v in ins)
                pairs = [f"layer = {group['state'] + layer}"] if layer is not None else []
                pairs += [attrs] if attrs else []
                scope = module.replace("*", str(group["layer"]))
                text = f"{results} = {op}({operands})"
                text += f" {{{', '.join(pairs)}}}" if pairs else ""
                rows.append((number, f"{text}  // {place} in {scope}"))
            number += 1
    return rows


def test_kinds_and_names_make_the_graph_again() -> None:
    graph = decoder(3)
    found, tables = drawn()
    assert len(found["kinds"]) == 3
    assert len(found["groups"]) == 5
    assert lines(found, tables) == list(enumerate(map(print_node, graph.nodes)))


def test_each_box_has_a_place_and_each_wire_two_boxes() -> None:
    found, _ = drawn()
    for kind in found["kinds"]:
        boxes = len(kind["ports"]) + len(kind["items"]) + len(kind["leaving"])
        assert boxes == len(kind["x"]) == len(kind["y"]) == len(kind["widths"])
        assert {end for a, b, _ in kind["wires"] for end in (a, b)} == set(range(boxes))


def test_what_a_group_reads_and_gives() -> None:
    found, _ = drawn()
    group = found["groups"][2]
    kind = found["kinds"][group["kind"]]
    ports = [[group["ports"][port] for port in pill] for pill in kind["ports"]]
    assert ports == [["7"], ["4", "slots"], ["starts", "lengths", "tables"]]
    assert [group["values"][value] for value in kind["leaving"]] == ["11", "14"]


def test_costs_of_a_kind_are_those_of_its_layers() -> None:
    source, tables = two_layers(), Tables()
    items = step_items(source.graph, source.plan)
    found = picture(source.graph, items, tables)
    texts, env = list(tables.sizes), {"T": 3, "S": 2, "R": 1, "P": 4, "context": 9}
    for group in found["groups"]:
        for number, item in enumerate(found["kinds"][group["kind"]]["items"]):
            expected = region_bytes(items[group["at"] + number])
            assert evaluate(parse_dim(texts[item["bytes"]]), env) == evaluate(expected, env)


@pytest.mark.parametrize("odd", ["a b", 'quo"te', "<script>", "new\nline"])
def test_odd_names_are_quoted_as_in_the_text_form(odd: str) -> None:
    assert print_name(odd) == drawn_name(odd)


def drawn_name(odd: str) -> str:
    from graphopt.ir.builder import GraphBuilder

    from .models import T, tensor

    b = GraphBuilder("g")
    x = b.input(odd, tensor(T))
    graph = b.finish([b.one("neg", [x])])
    (group,) = picture(graph, node_items(graph), Tables())["groups"]
    found: str = group["ports"][0]
    return found


def test_words_in_a_box() -> None:
    items = node_items(decoder(1))
    by_name: dict[str, Item] = {item.name: item for item in items}
    assert leaf_of(by_name["linear"]) == "lm_head"
    assert leaf_of(by_name["add"]) == ""
    assert result_of(by_name["kv_write"]) == "kv state"
    assert result_of(by_name["add"]) == "bf16[T, 8]"
