"""The drawing of a graph as plain data: each kind of group drawn once, each group with its names.

A kind holds what equal layers share: boxes, wires, costs, the nodes' lines but for names. A group
holds the names that its layer puts in: of values, weights and of what it reads from other groups.
In a kind ``3`` is a value made inside, ``w3`` a weight, ``p3`` a port.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.printer import print_name
from graphopt.ir.shape import Dim
from graphopt.ir.types import StateType, Type

from .costs import region_bytes, region_flops
from .drawing import Edge, draw
from .groups import Group, attrs_text, group_items, kinds_of, layer_offset
from .items import Item
from .paths import split_layer

# Widths of a character in the fonts of the page, and of a box, in pixels.
NAME_PX, LEAF_PX, TYPE_PX = 8.2, 6.9, 6.5
PADDING_PX, NARROWEST_PX, WIDEST_PX = 24.0, 92.0, 300.0


@dataclass(slots=True)
class Tables:
    """Texts that occur many times, each kept once: types and sizes."""

    types: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    _type_texts: dict[Type, int] = field(default_factory=dict)

    def type(self, type_: Type) -> int:
        """The number of a type."""
        if type_ not in self._type_texts:
            self._type_texts[type_] = self.types.setdefault(str(type_), len(self.types))
        return self._type_texts[type_]

    def size(self, dim: Dim) -> int:
        """The number of a size expression."""
        return self.sizes.setdefault(str(dim), len(self.sizes))


def picture(graph: Graph, items: Sequence[Item], tables: Tables) -> dict[str, Any]:
    """Plain data for drawing ``items``, which cover the nodes of ``graph``."""
    groups = group_items(graph, items)
    kinds = kinds_of(groups)
    returned = frozenset(graph.outputs)
    drawn: dict[int, dict[str, Any]] = {}
    for group, kind in zip(groups, kinds, strict=True):
        if kind not in drawn:
            drawn[kind] = _kind(graph, group, _leaving(items, group, returned), tables)
    return {
        "kinds": list(drawn.values()),
        "groups": [
            {
                "kind": kind,
                "stack": group.layer[0] if group.layer else "",
                "layer": group.layer[1] if group.layer else None,
                "state": group.state_layer,
                "at": _compact(group.positions),
                "values": [print_name(value.name) for value in group.locals],
                "weights": [print_name(value.name) for value in group.weights],
                "ports": [print_name(value.name) for value in group.ports],
            }
            for group, kind in zip(groups, kinds, strict=True)
        ],
        "inputs": [[print_name(value.name), tables.type(value.type)] for value in graph.inputs],
        "outputs": [print_name(value.name) for value in graph.outputs],
    }


def _compact(positions: Sequence[int]) -> int | list[int]:
    """The first position if the others follow it, else all."""
    first = positions[0]
    follow = positions == tuple(range(first, first + len(positions)))
    return first if follow else list(positions)


def _leaving(items: Sequence[Item], group: Group, returned: frozenset[Value]) -> list[Value]:
    """The values that other groups read, or the caller."""
    inside = set(group.positions)
    outside = {v for number, item in enumerate(items) if number not in inside for v in item.inputs}
    made = dict.fromkeys(value for item in group.items for value in item.outputs)
    return [value for value in made if value in returned or value in outside]


def _kind(graph: Graph, group: Group, leaving: Sequence[Value], tables: Tables) -> dict[str, Any]:
    makers = {value: number for number, item in enumerate(group.items) for value in item.outputs}
    pills = _pills(group)
    start, end = len(pills), len(pills) + len(group.items)
    edges: list[Edge] = []
    for number, (_, readers) in enumerate(pills):
        edges += [(number, start + reader) for reader in readers]
    for number, item in enumerate(group.items):
        edges += [(start + makers[v], start + number) for v in item.inputs if v in makers]
    edges += [(start + makers[value], end + number) for number, value in enumerate(leaving)]
    widths = [_pill_width(ports, graph) for ports, _ in pills]
    widths += [_box_width(item) for item in group.items]
    widths += [_pill_width([value], graph) for value in leaving]
    drawing = draw(widths, edges)
    return {
        "ports": [[group.ports[value] for value in ports] for ports, _ in pills],
        "items": [_item(group, item, tables) for item in group.items],
        "leaving": [group.locals[value] for value in leaving],
        "x": [place[0] for place in drawing.places],
        "y": [place[1] for place in drawing.places],
        "widths": [round(width, 1) for width in widths],
        "wires": drawing.wires,
        "width": drawing.width,
        "height": drawing.height,
        "types": [tables.type(value.type) for value in group.locals],
        "weightTypes": [tables.type(value.type) for value in group.weights],
        "portTypes": [tables.type(value.type) for value in group.ports],
    }


def _pills(group: Group) -> list[tuple[list[Value], tuple[int, ...]]]:
    """What is read from outside, with its readers; ports with the same readers share a pill."""
    readers: dict[Value, list[int]] = {value: [] for value in group.ports}
    for number, item in enumerate(group.items):
        for value in item.inputs:
            if value in readers:
                readers[value].append(number)
    shared: dict[tuple[int, ...], list[Value]] = {}
    for value, numbers in readers.items():
        shared.setdefault(tuple(numbers), []).append(value)
    return [(values, numbers) for numbers, values in shared.items() if numbers]


def _pill_width(values: Sequence[Value], graph: Graph) -> float:
    """Room for the names, and for the place that one value comes from or goes to."""
    text = ", ".join(map(str, values))
    if len(values) == 1 and values[0] in graph.producers:
        text += " from layer 00"
    return _clamp(len(text) * TYPE_PX + PADDING_PX)


def _box_width(item: Item) -> float:
    first = len(item.name) * NAME_PX + (len(leaf_of(item)) + 2) * LEAF_PX
    return _clamp(max(first, len(result_of(item)) * TYPE_PX) + PADDING_PX)


def _clamp(width: float) -> float:
    return min(max(width, NARROWEST_PX), WIDEST_PX)


def leaf_of(item: Item) -> str:
    """The last name of a box's module, such as ``q_proj``; empty for a layer as a whole."""
    pattern, _ = split_layer(item.scope)
    return pattern.rpartition(".")[2].replace("*", "")


def result_of(item: Item) -> str:
    """What a box makes, in short: the first result's type, and how many more there are."""
    if not item.outputs:
        return ""
    first = item.outputs[0].type
    text = f"{first.kind} state" if isinstance(first, StateType) else str(first)
    more = len(item.outputs) - 1
    return f"{text} and {more} more" if more else text


def _item(group: Group, item: Item, tables: Tables) -> dict[str, Any]:
    found = {
        "name": item.name,
        "family": item.family,
        "scope": split_layer(item.scope)[0],
        "leaf": leaf_of(item),
        "makes": result_of(item),
        "in": [group.reference(value) for value in item.inputs],
        "out": [group.reference(value) for value in item.outputs],
        "bytes": tables.size(region_bytes(item)),
        "flops": tables.size(region_flops(item)),
        "nodes": [_node(group, node) for node in item.nodes],
    }
    if item.backend:
        found |= {"backend": item.backend, "kernel": item.kernel}
    return found


def _node(group: Group, node: Node) -> list[Any]:
    """Operator, inputs, outputs, attributes, layer of the state, place in the source, module."""
    place = f"{node.loc.file}:{node.loc.line}" if node.loc and node.loc.file else ""
    return [
        print_name(node.op),
        [group.reference(value) for value in node.inputs],
        [group.reference(value) for value in node.outputs],
        attrs_text(node),
        layer_offset(group, node),
        place,
        split_layer(node.loc.module)[0] if node.loc else "",
    ]
