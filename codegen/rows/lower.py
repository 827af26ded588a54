"""Nodes to trees: what the elements of each value are made of, whatever a target does with them.

A chain of pointwise nodes and views is one tree. What a target has to keep between them, a result
of a reduction or what several readers want, is its own affair: it says so in a class of its own
after :class:`Lowering`.

Between nodes nothing is rounded, but where a node says so: a cast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_pointwise
from graphopt.ir.types import StateType, TensorType

from .access import Access
from .names import Names
from .tree import Assembly, Leaf, RefusedError, Rows, Tree, map_view


@dataclass(slots=True)
class Lowering(ABC):
    """What the values of a region are made of, as far as it is known.

    Attributes:
        graph: what the nodes belong to.
        makers: the node that makes each value, of those to compute.
        rows: what rows are.
        operands: where the values that are there lie.
        results: where the wanted values go.
        names: the kernel's names.
        table: how to lower each operator; gives a tree for each output.
        dtypes: element types that the target computes with.
        known: what has been lowered.
    """

    graph: Graph
    makers: Mapping[Value, Node]
    rows: Rows
    operands: Mapping[Value, Tree]
    results: Mapping[Value, Leaf]
    names: Names
    table: Mapping[str, Lower]
    dtypes: AbstractSet[DType]
    known: dict[Value, Tree | Assembly] = field(default_factory=dict)

    @abstractmethod
    def settled(self, value: Value, made: Tree | Assembly) -> Tree | Assembly:
        """What readers of ``value`` shall read, where ``made`` computes it."""

    @abstractmethod
    def at_hand(self, tree: Tree, type_: TensorType, value: Value, name: str = "") -> Tree:
        """``tree``, or a copy if reading it more than once is dear.

        Args:
            tree: what to read.
            type_: its type.
            value: what it computes.
            name: what to call a copy; as the value if not given.
        """

    @abstractmethod
    def copied(self, tree: Tree, type_: TensorType, value: Value) -> Tree:
        """A copy whose elements lie side by side, if the target makes any; else ``tree``."""

    @abstractmethod
    def source(self, value: Value) -> Leaf:
        """A value in memory, where an index can choose what is read."""

    @abstractmethod
    def together(self, made: Assembly, value: Value) -> Tree:
        """A value that is put together from parts, as one tree."""

    @abstractmethod
    def fold(
        self, how: str, tree: Tree, type_: TensorType, over: tuple[int, ...], *values: Value
    ) -> Tree:
        """What the last dimensions of a tree add up to.

        Args:
            how: ``sum``, ``max``, ``min``, ``product``, ``any`` or ``all``.
            tree: what to reduce.
            type_: the result's type.
            over: the dimensions that go.
            values: what computes it, for comments.
        """

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of one row of a value."""
        return self.rows.sizes(type_of(value).shape)

    def made(self, value: Value) -> Tree | Assembly:
        """What a value is made of."""
        if value in self.operands:
            return self.operands[value]
        if value not in self.known:
            node = self.makers.get(value)
            if node is None:
                raise RefusedError("a value is not at hand", value)
            lower = self.table.get(node.op)
            if lower is None:
                raise RefusedError(f"no row program computes {node.op}", node)
            for output in node.outputs:
                if isinstance(output.type, TensorType) and output.type.dtype not in self.dtypes:
                    raise RefusedError(f"nothing is computed in {output.type.dtype}", node)
            try:
                for output, made in zip(node.outputs, lower(self, node), strict=False):
                    self.known[output] = self.settled(output, made)
            except RefusedError as error:
                raise RefusedError(error.reason, *(error.culprits or (node,))) from error
        return self.known[value]

    def tree(self, value: Value) -> Tree:
        """The tree of a value."""
        made = self.made(value)
        if isinstance(made, Assembly):
            made = self.known[value] = self.together(made, value)
        return made

    def viewed(self, value: Value, view: Callable[[Access], Access | None], node: Node) -> Tree:
        """A view of a value; of a copy, if strides cannot say it."""
        tree = self.tree(value)
        found = map_view(tree, view)
        if found is None:
            found = map_view(self.copied(tree, type_of(value), value), view)
        if found is None:
            raise RefusedError("a view takes rows apart", node)
        return found

    def memory(self, value: Value) -> str:
        """The name of the memory of an operand that is read or written as it is."""
        leaf = self.operands.get(value)
        if not isinstance(leaf, Leaf):
            raise RefusedError("an operand is not in memory as it is", value)
        return leaf.buffer.name

    def ends_together(self, value: Value) -> bool:
        """Whether one loop at most computes everything that reads ``value``."""
        readers = [node for node in self.graph.users.get(value, ()) if self._is_inside(node)]
        if len(readers) + (value in self.results) <= 1:
            return True
        return self._is_stored(value)

    def _is_stored(self, value: Value) -> bool:
        """Whether pointwise work alone leads from ``value`` to results, of its own shape."""
        readers = [node for node in self.graph.users.get(value, ()) if self._is_inside(node)]
        if not readers:
            return value in self.results
        shape = type_of(value).shape
        return all(
            is_pointwise(node.op)
            and type_of(node.output).shape == shape
            and self._is_stored(node.output)
            for node in readers
        )

    def _is_inside(self, node: Node) -> bool:
        return self.makers.get(node.output) is node


Lower = Callable[[Lowering, Node], Sequence[Tree | Assembly]]


def type_of(value: Value) -> TensorType:
    """The type of a tensor.

    Raises:
        RefusedError: it is state.
    """
    if isinstance(value.type, StateType):
        raise RefusedError("state is read as a tensor", value)
    return value.type


def is_dear(scalar: str) -> bool:
    """Whether an expression costs more than loading its value again."""
    return "(" in scalar.replace("cast(", "") or "/" in scalar or scalar.count(" ") > 4
