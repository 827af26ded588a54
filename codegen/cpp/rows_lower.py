"""Nodes to trees and statements: what has to be computed for one row, and in which order.

A chain of pointwise nodes and views with one reader stays a tree, which the loop that stores its
end computes. What several loops read, what a reduction gives and what strides cannot say goes to
memory of the thread's own. Results are stored last, all results of one shape by one loop that loads
before it stores, so a result may lie in the memory of an operand where ``passes.in_place`` says so.

Between nodes nothing is rounded, but where a node says so: a cast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_pointwise
from graphopt.ir.types import StateType, TensorType
from graphopt.packing import Layout

from .access import Access, contiguous
from .expression import CTYPES, kind_of
from .rows_names import Names
from .rows_tree import (
    Apply,
    Assembly,
    Buffer,
    Declare,
    Leaf,
    Loop,
    RefusedError,
    Rows,
    Statement,
    Tree,
    map_view,
    walk,
)

# Memory up to this size is on the stack; a head of 256 numbers is.
STACK_BYTES = 1024
_BYTES = {"float": 4, "int64_t": 8, "bool": 1}
_PRIVATE = {"float": "float", "int": "int64_t", "bool": "bool"}


@dataclass(slots=True)
class Lowering:
    """The statements of a row, as far as they are known.

    Attributes:
        graph: what the nodes belong to.
        makers: the node that makes each value, of those to compute.
        rows: what rows are.
        operands: where the values that are there lie.
        results: where the wanted values go.
        layouts: how packed weights are stored.
        names: C++ names.
        table: how to lower each operator; gives a tree for each output.
        statements: in running order.
        scratch_bytes: private memory so far.
    """

    graph: Graph
    makers: Mapping[Value, Node]
    rows: Rows
    operands: Mapping[Value, Tree]
    results: Mapping[Value, Leaf]
    layouts: Mapping[str, Layout]
    names: Names
    table: Mapping[str, Lower]
    statements: list[Statement] = field(default_factory=list)
    scratch_bytes: int = 0
    known: dict[Value, Tree | Assembly] = field(default_factory=dict)

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
                if isinstance(output.type, TensorType) and output.type.dtype not in CTYPES:
                    raise RefusedError(f"nothing is computed in {output.type.dtype}", node)
            try:
                for output, made in zip(node.outputs, lower(self, node), strict=False):
                    self.known[output] = self.settled(output, made)
            except RefusedError as error:
                raise RefusedError(error.reason, *(error.culprits or (node,))) from error
        return self.known[value]

    def tree(self, value: Value) -> Tree:
        """The tree of a value; one that is put together lies in memory."""
        made = self.made(value)
        if isinstance(made, Assembly):
            made = self.known[value] = self.store(made, type_of(value), self.names.of(value), value)
        return made

    def settled(self, value: Value, made: Tree | Assembly) -> Tree | Assembly:
        """``made``, in memory if several loops read it and it is not computed at once."""
        if isinstance(made, Assembly) or self._ends_together(value):
            return made
        if not any(isinstance(part, Apply) and _is_dear(part.scalar) for part in walk(made)):
            return made
        return self.store(made, type_of(value), self.names.of(value), value)

    def _ends_together(self, value: Value) -> bool:
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

    def memory(self, value: Value) -> str:
        """The C++ name of the memory of an operand that functions of the headers read or write."""
        leaf = self.operands.get(value)
        if not isinstance(leaf, Leaf):
            raise RefusedError("an operand is not in memory as it is", value)
        return leaf.buffer.name

    def private(self, type_: TensorType, name: str) -> Leaf:
        """Memory of the thread's own for one row of a value; its rows are outermost."""
        elements = self.rows.elements(type_.shape)
        ctype = _PRIVATE[kind_of(type_.dtype)]
        nbytes = max(1, elements) * _BYTES[ctype]
        has_rows = self.rows.has(type_.shape)
        buffer = Buffer(
            self.names.use(name), ctype, elements if has_rows else 0, single=elements == 1
        )
        place = None
        if nbytes > STACK_BYTES:
            place = self.scratch_bytes
            self.scratch_bytes += -(-nbytes // 64) * 64
        self.statements.append(Declare(buffer, elements, place))
        counts = [self.rows.count(size) for size in type_.shape]
        order = sorted(range(len(counts)), key=lambda dim: counts[dim] is None)
        return Leaf(buffer, contiguous(type_.shape, order))

    def store(self, made: Tree | Assembly, type_: TensorType, name: str, *values: Value) -> Leaf:
        """Private memory that holds ``made``."""
        leaf = self.private(type_, name)
        self.statements.extend(stores_of(made, leaf, values))
        return leaf

    def rows_of(self, value_tree: Tree, type_: TensorType, name: str) -> Leaf:
        """``value_tree`` in private memory, row-major; as it is, if it is there already."""
        if isinstance(value_tree, Leaf) and not value_tree.indices:
            order = [dim for dim, size in enumerate(type_.shape) if self.rows.count(size)]
            order += [dim for dim in range(len(type_.shape)) if dim not in order]
            whole = contiguous(type_.shape, order)
            if value_tree.buffer.row is not None and value_tree.access == whole:
                return value_tree
        return self.store(value_tree, type_, name)

    def viewed(self, value: Value, view: Callable[[Access], Access | None], node: Node) -> Tree:
        """A view of a value; of a copy, if strides cannot say it."""
        tree = self.tree(value)
        found = map_view(tree, view)
        if found is None:
            tree = self.store(tree, type_of(value), self.names.of(value), value)
            found = map_view(tree, view)
        if found is None:
            raise RefusedError("a view takes rows apart", node)
        return found


Lower = Callable[[Lowering, Node], Sequence[Tree | Assembly]]


def type_of(value: Value) -> TensorType:
    """The type of a tensor.

    Raises:
        RefusedError: it is state.
    """
    if isinstance(value.type, StateType):
        raise RefusedError("state is read as a tensor", value)
    return value.type


def stores_of(
    made: Tree | Assembly, target: Leaf, values: tuple[Value, ...] = ()
) -> list[Statement]:
    """Statements that store ``made`` to ``target``."""
    pieces = pieces_of(made, target)
    groups: dict[tuple[object, ...], list[tuple[Leaf, Tree]]] = {}
    for leaf, tree in pieces:
        groups.setdefault(leaf.access.shape, []).append((leaf, tree))
    return [Loop(tuple(stores), values) for stores in groups.values()]


def pieces_of(made: Tree | Assembly, target: Leaf) -> list[tuple[Leaf, Tree]]:
    """Which trees go where."""
    if not isinstance(made, Assembly):
        return [(target, made)]
    return [(Leaf(target.buffer, place(target.access)), tree) for place, tree in made.parts]


def finish(lowering: Lowering) -> None:
    """Lower every write of state, then store the results: those of one shape by one loop."""
    for node in dict.fromkeys(lowering.makers.values()):
        if isinstance(node.output.type, StateType):
            lowering.known[node.output] = next(iter(lowering.table[node.op](lowering, node)))
    groups: dict[tuple[int, ...], tuple[list[tuple[Leaf, Tree]], list[Value]]] = {}
    for value, target in lowering.results.items():
        if lowering.rows.symbol and not lowering.rows.has(type_of(value).shape):
            raise RefusedError("a result has no rows", value)
        for leaf, tree in pieces_of(lowering.made(value), target):
            leaf, tree = _aligned(lowering.rows, leaf, tree)
            stores, values = groups.setdefault(lowering.rows.sizes(leaf.access.shape), ([], []))
            stores.append((leaf, tree))
            values.append(value)
    for stores, values in groups.values():
        lowering.statements.append(Loop(tuple(stores), tuple(dict.fromkeys(values))))


def _aligned(rows: Rows, leaf: Leaf, tree: Tree) -> tuple[Leaf, Tree]:
    """A store without dimensions of size 1, rows first: so that one loop may hold others too."""
    shape = leaf.access.shape
    sizes = rows.sizes(shape)
    kept = [dim for dim, size in enumerate(shape) if size != 1]
    dims = sorted(kept, key=lambda dim: sizes[dim] != 1)
    if dims == list(range(len(shape))):
        return leaf, tree
    moved = map_view(tree, lambda access: access.permute(dims))
    return (leaf, tree) if moved is None else (Leaf(leaf.buffer, leaf.access.permute(dims)), moved)


def _is_dear(scalar: str) -> bool:
    """Whether an expression costs more than loading its value again."""
    return "(" in scalar.replace("cast(", "") or "/" in scalar or scalar.count(" ") > 4
