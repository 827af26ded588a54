"""What a kernel in Triton keeps: nothing. Each tile computes what it stores from what it loads.

A tile's registers cannot be read at other places than its own, so a value is a tree down to the
operands, reductions within it, and stays one however many read it; what several trees have in
common is computed once for the same tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphopt.gpu_packing import GpuPacking
from graphopt.ir.graph import Value
from graphopt.ir.types import StateType, TensorType

from ..rows.access import Access
from ..rows.lower import Lowering, type_of
from ..rows.places import assembled
from ..rows.pointwise import apply
from ..rows.tree import Assembly, Buffer, Leaf, Reduced, RefusedError, Rows, Tree, map_view


@dataclass(frozen=True, slots=True)
class Store:
    """Elements of a value, and where they go.

    Attributes:
        target: where to.
        tree: what.
        condition: stores only where this holds; None for everywhere.
        values: what it computes.
    """

    target: Leaf
    tree: Tree
    condition: Tree | None = None
    values: tuple[Value, ...] = ()


@dataclass(slots=True)
class TileLowering(Lowering):
    """Trees of a region's results.

    Attributes:
        states: the memory of each state's keys and values.
        packings: how weights in few bits lie, by name, that are not there row after row.
        stores: in running order; each can run as soon as those before it are done.
    """

    states: Mapping[Value, tuple[Buffer, Buffer]] = field(default_factory=dict)
    packings: Mapping[str, GpuPacking] = field(default_factory=dict)
    stores: list[Store] = field(default_factory=list)

    def settled(self, value: Value, made: Tree | Assembly) -> Tree | Assembly:
        """``made`` itself."""
        return made

    def at_hand(self, tree: Tree, type_: TensorType, value: Value, name: str = "") -> Tree:
        """``tree`` itself."""
        return tree

    def copied(self, tree: Tree, type_: TensorType, value: Value) -> Tree:
        """``tree`` itself: there are no copies."""
        return tree

    def together(self, made: Assembly, value: Value) -> Tree:
        """A choice by position."""
        type_ = type_of(value)
        return assembled(made, type_.shape, type_.dtype)

    def source(self, value: Value) -> Leaf:
        """The memory of an operand."""
        tree = self.tree(value)
        if isinstance(tree, Leaf) and not tree.indices:
            return tree
        raise RefusedError("an index reads what the kernel computes", value)

    def fold(
        self, how: str, tree: Tree, type_: TensorType, over: tuple[int, ...], *values: Value
    ) -> Tree:
        """A reduction as a tree."""
        return Reduced(how, tree, over)

    def finish(self) -> None:
        """Lower every write of state, then every result."""
        for node in dict.fromkeys(self.makers.values()):
            if isinstance(node.output.type, StateType):
                self.known[node.output] = next(iter(self.table[node.op](self, node)))
        for value, target in self.results.items():
            if self.rows.symbol and not self.rows.has(type_of(value).shape):
                raise RefusedError("a result has no rows", value)
            self.store(value, target)

    def store(
        self,
        value: Value,
        target: Leaf,
        condition: Tree | None = None,
        within: float | None = None,
    ) -> None:
        """Stores a value, part after part if it is put together.

        Args:
            value: what.
            target: where to.
            condition: stores only where this holds.
            within: what is beyond this, either way, becomes it.
        """
        made = self.made(value)
        parts = made.parts if isinstance(made, Assembly) else ((_whole, made),)
        for place, tree in parts:
            leaf = map_view(target, place)
            holds = None if condition is None else map_view(condition, place)
            if not isinstance(leaf, Leaf) or (condition is not None and holds is None):
                raise RefusedError("strides cannot say where a part goes", value)
            if within is not None:
                tree = apply(f"minimum(maximum(a, {-within}), {within})", tree)
            self.stores.append(_aligned(self.rows, Store(leaf, tree, holds, (value,))))


def _whole(access: Access) -> Access:
    return access


def _aligned(rows: Rows, store: Store) -> Store:
    """A store without dimensions of size 1, rows first: so that one tile may hold others too."""
    shape = store.target.access.shape
    sizes = rows.sizes(shape)
    kept = [dim for dim, size in enumerate(shape) if size != 1]
    dims = sorted(kept, key=lambda dim: sizes[dim] != 1)

    def moved(access: Access) -> Access:
        return access.permute(dims)

    target, tree = map_view(store.target, moved), map_view(store.tree, moved)
    condition = None if store.condition is None else map_view(store.condition, moved)
    if not isinstance(target, Leaf) or tree is None:
        raise RefusedError("a permutation is no view", *store.values)
    return Store(target, tree, condition, store.values)
