"""A graph's nodes in groups that never wait for each other: what fusion merges, two at a time.

Nodes that only give data another shape belong to no group: they are index arithmetic for whoever
reads through them. All others start in a group of their own. Two groups may become one if no path
leads from one to the other through a third, because then the third would have to run in the middle.
State is updated in place, so who writes it waits for those who read it as it was before.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import keeps_state
from graphopt.ir.types import StateType
from graphopt.region import base_of, is_alias, readers


@dataclass(slots=True, eq=False)
class Group:
    """Nodes that will be one region.

    Attributes:
        nodes: by position in the graph, in running order.
        family: the kernel family that computes them.
        anchor: the node around which the kernel is built, None if there is none.
    """

    nodes: list[int]
    family: str
    anchor: Node | None = None
    before: set[Group] = field(default_factory=set)
    after: set[Group] = field(default_factory=set)

    @property
    def first(self) -> int:
        """Position of the first node."""
        return self.nodes[0]

    @property
    def last(self) -> int:
        """Position of the last node."""
        return self.nodes[-1]


class Groups:
    """The groups of a graph and what waits for what.

    Args:
        graph: whose nodes.
        families: the family and the anchor of each node that is a group of its own.
    """

    def __init__(self, graph: Graph, families: Mapping[Node, tuple[str, Node | None]]) -> None:
        self.graph = graph
        self.position = {node: place for place, node in enumerate(graph.nodes)}
        self._of: dict[Node, Group] = {}
        # For each position, the last position of any group that begins there or before.
        self._reach = list(range(len(graph.nodes)))
        for node, (family, anchor) in families.items():
            self._of[node] = Group([self.position[node]], family, anchor)
        for node, group in self._of.items():
            for earlier in _waits_for(graph, node):
                group.before.add(self._of[earlier])
                self._of[earlier].after.add(group)

    def __iter__(self) -> Iterator[Group]:
        """The groups, by their first node."""
        return iter(sorted(set(self._of.values()), key=lambda group: group.first))

    def of(self, node: Node) -> Group:
        """The group that a node is in; the node has to be in one."""
        return self._of[node]

    def find(self, node: Node) -> Group | None:
        """The group that a node is in; None for a mere change of shape."""
        return self._of.get(node)

    def maker(self, value: Value) -> Group | None:
        """The group that makes the data of ``value``; None for inputs and weights."""
        node = self.graph.producers.get(base_of(self.graph, value))
        return None if node is None else self._of[node]

    def nodes(self, group: Group) -> tuple[Node, ...]:
        """A group's nodes in running order."""
        return tuple(self.graph.nodes[place] for place in group.nodes)

    def outside_readers(self, group: Group, value: Value) -> tuple[Node, ...]:
        """The nodes of other groups that read the data of ``value``."""
        found = dict.fromkeys(readers(self.graph, value))
        return tuple(node for node in found if self._of[node] is not group)

    def is_returned(self, value: Value) -> bool:
        """Whether ``value`` is an output of the graph."""
        return value in self.graph.outputs

    def in_the_way(self, one: Group, other: Group) -> Group | None:
        """A third group on a path between two, in whichever direction; None if there is none."""
        return self._between(one, other) or self._between(other, one)

    def _between(self, start: Group, end: Group) -> Group | None:
        """A group on a path from ``start`` to ``end``.

        Positions up to the horizon hold every group that begins there as a whole, so whatever
        comes before ``end`` begins there too and the search need not go further.
        """
        horizon = end.last
        while self._reach[horizon] > horizon:
            horizon = self._reach[horizon]
        seen: set[Group] = set()
        stack = [(group, group) for group in start.after if group is not end]
        while stack:
            group, via = stack.pop()
            if group is end:
                return via
            if group in seen or group.first > horizon:
                continue
            seen.add(group)
            stack.extend((later, via) for later in group.after)
        return None

    def merge(self, one: Group, other: Group, family: str, anchor: Node | None) -> Group:
        """Make one group of two; the caller has made sure that nothing is in the way."""
        nodes = list(heapq.merge(one.nodes, other.nodes))
        merged = Group(nodes, family, anchor)
        pair = {one, other}
        merged.before = (one.before | other.before) - pair
        merged.after = (one.after | other.after) - pair
        for group in merged.before:
            group.after -= pair
            group.after.add(merged)
        for group in merged.after:
            group.before -= pair
            group.before.add(merged)
        for place in range(merged.first, merged.last):
            self._reach[place] = max(self._reach[place], merged.last)
        for place in nodes:
            self._of[self.graph.nodes[place]] = merged
        return merged

    def running_order(self) -> tuple[Group, ...]:
        """Every group after those it waits for, otherwise in the graph's order."""
        waiting = {group: len(group.before) for group in self}
        numbers = {group: number for number, group in enumerate(waiting)}
        ready = [(group.first, numbers[group], group) for group, n in waiting.items() if n == 0]
        heapq.heapify(ready)
        order: list[Group] = []
        while ready:
            _, _, group = heapq.heappop(ready)
            order.append(group)
            for later in group.after:
                waiting[later] -= 1
                if waiting[later] == 0:
                    heapq.heappush(ready, (later.first, numbers[later], later))
        return tuple(order)

    def with_aliases(self, nodes: Iterable[int]) -> tuple[int, ...]:
        """Positions of ``nodes`` and of what gives their inputs another shape, in order."""
        found = set(nodes)
        stack = list(found)
        while stack:
            for value in self.graph.nodes[stack.pop()].inputs:
                node = self.graph.producers.get(value)
                if node is not None and is_alias(self.graph, node):
                    place = self.position[node]
                    if place not in found:
                        found.add(place)
                        stack.append(place)
        return tuple(sorted(found))


def _waits_for(graph: Graph, node: Node) -> Iterator[Node]:
    """The nodes that make what ``node`` reads, and those that read the state it overwrites."""
    for value in node.inputs:
        made = graph.producers.get(base_of(graph, value))
        if made is not None and made is not node:
            yield made
        if isinstance(value.type, StateType) and keeps_state(node):
            yield from (reader for reader in graph.users[value] if reader is not node)
