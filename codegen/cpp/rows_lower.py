"""What a row program in C++ keeps in memory of the thread's own, and the order of its statements.

What several loops read, what a reduction gives and what strides cannot say goes to private memory.
Results are stored last, all results of one shape by one loop that loads before it stores, so a
result may lie in the memory of an operand where ``passes.in_place`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.types import StateType, TensorType
from graphopt.packing import Layout

from ..rows.access import contiguous
from ..rows.lower import Lowering, is_dear, type_of
from ..rows.tree import (
    Apply,
    Assembly,
    Buffer,
    Kind,
    Leaf,
    RefusedError,
    Rows,
    Tree,
    kind_of,
    map_view,
    walk,
)
from .rows_statements import Declare, Loop, Reduce, Statement

# Memory up to this size is on the stack; a head of 256 numbers is.
STACK_BYTES = 1024
_PRIVATE: Mapping[Kind, DType] = {"float": DType.F32, "int": DType.I64, "bool": DType.BOOL}


@dataclass(slots=True)
class RowLowering(Lowering):
    """The statements of a row, as far as they are known.

    Attributes:
        layouts: how packed weights are stored.
        statements: in running order.
        scratch_bytes: private memory so far.
    """

    layouts: Mapping[str, Layout] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)
    scratch_bytes: int = 0

    def settled(self, value: Value, made: Tree | Assembly) -> Tree | Assembly:
        """``made``, in memory if several loops read it and it is not computed at once."""
        if isinstance(made, Assembly) or self.ends_together(value):
            return made
        if not any(isinstance(part, Apply) and is_dear(part.scalar) for part in walk(made)):
            return made
        return self.store(made, type_of(value), self.names.of(value), value)

    def at_hand(self, tree: Tree, type_: TensorType, value: Value, name: str = "") -> Tree:
        """``tree`` if it is memory, else a copy."""
        if isinstance(tree, Leaf):
            return tree
        return self.store(tree, type_, name or self.names.of(value), value)

    def copied(self, tree: Tree, type_: TensorType, value: Value) -> Tree:
        """A copy in private memory."""
        return self.store(tree, type_, self.names.of(value), value)

    def source(self, value: Value) -> Leaf:
        """The memory of a value, or a copy."""
        tree = self.tree(value)
        if isinstance(tree, Leaf) and not tree.indices:
            return tree
        return self.store(tree, type_of(value), self.names.of(value), value)

    def together(self, made: Assembly, value: Value) -> Tree:
        """Private memory that holds all parts."""
        return self.store(made, type_of(value), self.names.of(value), value)

    def fold(
        self, how: str, tree: Tree, type_: TensorType, over: tuple[int, ...], *values: Value
    ) -> Tree:
        """Private memory that a loop reduces to."""
        target = self.private(type_, how)
        self.statements.append(Reduce(how, target, tree, over, values))
        return target

    def private(self, type_: TensorType, name: str) -> Leaf:
        """Memory of the thread's own for one row of a value; its rows are outermost."""
        elements = self.rows.elements(type_.shape)
        dtype = _PRIVATE[kind_of(type_.dtype)]
        nbytes = max(1, elements) * dtype.nbytes
        has_rows = self.rows.has(type_.shape)
        buffer = Buffer(
            self.names.use(name), dtype, elements if has_rows else 0, single=elements == 1
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

    def finish(self) -> None:
        """Lower every write of state, then store the results: those of one shape by one loop."""
        for node in dict.fromkeys(self.makers.values()):
            if isinstance(node.output.type, StateType):
                self.known[node.output] = next(iter(self.table[node.op](self, node)))
        groups: dict[tuple[int, ...], tuple[list[tuple[Leaf, Tree]], list[Value]]] = {}
        for value, target in self.results.items():
            if self.rows.symbol and not self.rows.has(type_of(value).shape):
                raise RefusedError("a result has no rows", value)
            for leaf, tree in pieces_of(self.made(value), target):
                leaf, tree = _aligned(self.rows, leaf, tree)
                stores, values = groups.setdefault(self.rows.sizes(leaf.access.shape), ([], []))
                stores.append((leaf, tree))
                values.append(value)
        for stores, values in groups.values():
            self.statements.append(Loop(tuple(stores), tuple(dict.fromkeys(values))))


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
