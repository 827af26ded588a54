"""Boxes in groups: what is before the layers, each layer, and what is after them.

before:  boxes in running order, with the paths of the modules they come from
after:   groups in running order; groups that compute the same, but for names, are of one kind

A box of no layer goes before the layers if it needs none of them, after them if none needs it, and
else to the layer that it waits for.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.printer import print_attr
from graphopt.ir.types import StateType

from .items import Item
from .paths import split_layer, stack_of

# A model without layers is cut into drawings of at most this many boxes, for the eye's sake.
MOST_ITEMS = 150

Layer = tuple[str, int]  # the list of layers, such as model.layers, and the number in it
BEFORE, AFTER = -1, 1 << 30


@dataclass(frozen=True)
class Group:
    """Boxes that are drawn together.

    Attributes:
        layer: the layer they are; None outside of layers.
        positions: which boxes, by number in running order.
        items: the boxes.
    """

    layer: Layer | None
    positions: tuple[int, ...]
    items: tuple[Item, ...]

    @cached_property
    def locals(self) -> Mapping[Value, int]:
        """The values made inside, numbered in order."""
        made = (value for item in self.items for node in item.nodes for value in node.outputs)
        return {value: number for number, value in enumerate(dict.fromkeys(made))}

    @cached_property
    def weights(self) -> Mapping[Value, int]:
        """The weights read inside, numbered in order of first use."""
        return self._read(weights=True)

    @cached_property
    def ports(self) -> Mapping[Value, int]:
        """The values read from other groups, and the graph's inputs, in order of first use."""
        return self._read(weights=False)

    def _read(self, *, weights: bool) -> dict[Value, int]:
        read = (value for item in self.items for node in item.nodes for value in node.inputs)
        found = dict.fromkeys(v for v in read if v.is_weight == weights and v not in self.locals)
        return {value: number for number, value in enumerate(found)}

    @cached_property
    def state_layer(self) -> int:
        """The first layer of a state that is used inside; 0 where none is."""
        numbers = (node.attrs.get("layer") for item in self.items for node in item.nodes)
        return next((number for number in numbers if isinstance(number, int)), 0)

    def reference(self, value: Value) -> int | str:
        """A value in the group's own numbers: 3 for one made inside, w3 a weight, p3 a port."""
        if value in self.locals:
            return self.locals[value]
        return f"w{self.weights[value]}" if value.is_weight else f"p{self.ports[value]}"


def group_items(graph: Graph, items: Sequence[Item]) -> tuple[Group, ...]:
    """The groups of ``items``, which cover the nodes of ``graph``."""
    layers = [_layer_of(item) for item in items]
    places: dict[Layer, int] = {}
    for layer in layers:
        if layer is not None:
            places.setdefault(layer, len(places))
    makers = {value: number for number, item in enumerate(items) for value in item.outputs}
    needed = _needed_by_layers(items, layers, makers)
    found: list[int] = []
    for number, (item, layer) in enumerate(zip(items, layers, strict=True)):
        if layer is not None:
            found.append(places[layer])
            continue
        waits = max((found[makers[v]] for v in item.inputs if v in makers), default=BEFORE)
        found.append(waits if waits == BEFORE or number in needed else AFTER)
    members: dict[int, list[int]] = {}
    for number, place in enumerate(found):
        members.setdefault(place, []).append(number)
    names = dict(enumerate(places))
    return tuple(
        Group(names.get(place), tuple(run), tuple(items[number] for number in run))
        for place in sorted(members)
        for run in _runs(members[place])
    )


def _layer_of(item: Item) -> Layer | None:
    pattern, number = split_layer(item.scope)
    return None if number is None else (stack_of(pattern), number)


def _needed_by_layers(
    items: Sequence[Item], layers: Sequence[Layer | None], makers: Mapping[Value, int]
) -> set[int]:
    """The boxes of no layer on which some layer depends."""
    needed: set[int] = set()
    for number in range(len(items) - 1, -1, -1):
        if layers[number] is not None or number in needed:
            needed.update(makers[value] for value in items[number].inputs if value in makers)
    return needed


def _runs(numbers: Sequence[int]) -> list[Sequence[int]]:
    return [numbers[start : start + MOST_ITEMS] for start in range(0, len(numbers), MOST_ITEMS)]


def kinds_of(groups: Sequence[Group]) -> list[int]:
    """The kind of each group, numbered from 0 in order of first occurrence."""
    kinds: dict[Hashable, int] = {}
    return [kinds.setdefault(_signature(group), len(kinds)) for group in groups]


def _signature(group: Group) -> Hashable:
    """Equal for groups that compute the same on other values, weights and layers."""
    return (
        group.layer is not None and group.layer[0],
        tuple(value.type for value in (*group.weights, *group.ports)),
        tuple(
            (
                item.name,
                item.backend,
                item.kernel,
                split_layer(item.scope)[0],
                tuple(group.reference(value) for value in item.outputs),
                tuple(_node_signature(group, node) for node in item.nodes),
            )
            for item in group.items
        ),
    )


def _node_signature(group: Group, node: Node) -> Hashable:
    return (
        node.op,
        tuple(group.reference(value) for value in node.inputs),
        tuple(value.type for value in node.outputs),
        attrs_text(node),
        layer_offset(group, node),
        _layer_state(node),
        (node.loc.file, node.loc.line, split_layer(node.loc.module)[0]) if node.loc else None,
    )


def attrs_text(node: Node) -> str:
    """A node's attributes as they print, but for the number of a state's layer."""
    pairs = (f"{name} = {print_attr(attr)}" for name, attr in node.attrs.items() if name != "layer")
    return ", ".join(pairs)


def layer_offset(group: Group, node: Node) -> int | None:
    """A node's layer of a state, counted from the group's first one; None if it has none."""
    layer: Attr = node.attrs.get("layer")
    return layer - group.state_layer if isinstance(layer, int) else None


def _layer_state(node: Node) -> Hashable:
    """What the state keeps in the node's layer."""
    layer = node.attrs.get("layer")
    for value in node.inputs:
        if isinstance(value.type, StateType) and isinstance(layer, int):
            return value.type.layers[layer]
    return None
