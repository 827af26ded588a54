"""Stores as tiles: which elements one program takes at a time, and the loops around them.

before:  trees, and where they go
after:   the lines of a kernel that computes a block of rows

Stores of one shape share a tile. A tile holds whole rows where something is reduced over them, else
a block of their outermost dimension; programs side by side take one block after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

from graphopt.ir.graph import Value

from ..rows.tree import Leaf, Position, Reduced, RefusedError, Rows, Tree, walk
from .expression import Term
from .tile_lower import Store
from .tile_scope import (
    MOST_ELEMENTS,
    Axis,
    Page,
    Scope,
    bound_of,
    parts_of,
    power_of_two,
)


@dataclass(frozen=True, slots=True)
class Block:
    """How much of a row one tile takes.

    Attributes:
        constant: the name of the constant that says how long its outermost dimension is.
        size: that dimension.
        rest: elements of the others, padded.
    """

    constant: str
    size: int
    rest: int


def _no_notes(values: Sequence[Value]) -> Sequence[str]:
    return ()


@dataclass(slots=True)
class Tiles(Page):
    """Prints the stores of a kernel.

    Attributes:
        notes: the comments on what computes some values.
        whole_rows: whether a program has to take whole rows.
        elements: the most that one row's tile holds where rows are whole.
        blocks: how rows are cut where they are not.
    """

    notes: Callable[[Sequence[Value]], Sequence[str]] = _no_notes
    whole_rows: bool = False
    elements: int = 1
    blocks: list[Block] = field(default_factory=list)

    def print(self, stores: Sequence[Store]) -> None:
        """Prints all stores, those of one shape together."""
        groups: dict[tuple[int, ...], list[Store]] = {}
        for store in stores:
            groups.setdefault(self.rows.sizes(store.target.access.shape), []).append(store)
        plans = [_Plan(self.rows, sizes, group) for sizes, group in groups.items()]
        self.whole_rows = any(plan.needs_rows() for plan in plans)
        for plan in plans:
            self._group(plan)

    def _group(self, plan: _Plan) -> None:
        if 0 in plan.sizes:
            return
        for line in self.notes(plan.values):
            self.put(line)
        padded = [power_of_two(size) for size in plan.sizes]
        rows = Axis("row", None, "ROWS", self.rows.symbol or "")
        axes = [rows, *map(_axis, plan.sizes)]
        rest = prod(padded[1:])
        if rest > MOST_ELEMENTS:
            raise RefusedError("a row's inner dimensions are too large for a tile")
        if not padded or (self.whole_rows and prod(padded) <= MOST_ELEMENTS):
            self.elements = max(self.elements, prod(padded))
            self._tile(Scope(self, axes, plan.groups, plan.rank), plan)
            return
        self._blocks(axes, plan, rest)

    def _blocks(self, axes: list[Axis], plan: _Plan, rest: int) -> None:
        """A tile after the other, along the outermost dimension of a row."""
        size, place = plan.sizes[0], self.names.fresh("block")
        constant = f"BLOCK{len(self.blocks)}"
        self.blocks.append(Block(constant, size, rest))
        start, step = ("0", "1") if self.whole_rows else ("tl.program_id(1)", "PARTS")
        axes[1] = Axis(
            f"({place} * {constant} + tl.arange(0, {constant}))", size, constant, str(size)
        )
        scope = Scope(self, axes, plan.groups, plan.rank)
        trees = plan.trees
        scope.count(trees)
        for tree in trees:
            _hoist(scope, tree, 1)
        self.put(f"for {place} in range({start}, tl.cdiv({size}, {constant}), {step}):")
        self.indent += 1
        self._stores(scope, plan)
        self.indent -= 1

    def _tile(self, scope: Scope, plan: _Plan) -> None:
        scope.count(plan.trees)
        self._stores(scope, plan)

    def _stores(self, scope: Scope, plan: _Plan) -> None:
        terms = [(store, scope.term(store.tree), self._mask(scope, store)) for store in plan.stores]
        places = [scope.address(store.target) for store in plan.stores]
        for (_, term, mask), place in zip(terms, places, strict=True):
            masked = f", mask={mask}" if mask else ""
            self.put(f"tl.store({place}, {term.text}{masked})")

    def _mask(self, scope: Scope, store: Store) -> str:
        mask = scope.mask(range(len(scope.axes)))
        if store.condition is None:
            return mask
        holds: Term = scope.term(store.condition)
        return f"{mask} & {holds.within(4)}" if mask else holds.text


class _Plan:
    """Stores of one shape, and the dimensions that they walk through alike."""

    def __init__(self, rows: Rows, sizes: tuple[int, ...], stores: Sequence[Store]) -> None:
        self.rows = rows
        self.stores = stores
        self.rank = len(sizes)
        self.groups = self._alike(sizes)
        self.sizes = [prod(sizes[dim] for dim in group) for group in self.groups]

    @property
    def trees(self) -> list[Tree]:
        """All that is computed, addresses too."""
        found: list[Tree] = []
        for store in self.stores:
            found += [store.tree, *parts_of(store.target)]
            found += [] if store.condition is None else [store.condition]
        return found

    @property
    def values(self) -> list[Value]:
        """What the stores compute."""
        return list(dict.fromkeys(value for store in self.stores for value in store.values))

    def needs_rows(self) -> bool:
        """Whether something is reduced over the outermost dimension of a row."""
        if not self.groups:
            return False
        first = self.groups[0]
        for tree in self.trees:
            for one in walk(tree):
                if isinstance(one, Reduced):
                    leaves = [x for x in walk(one.tree) if isinstance(x, Leaf | Position)]
                    if all(leaf.access.strides[first[-1]] == 0 for leaf in leaves):
                        return True
        return False

    def _alike(self, sizes: tuple[int, ...]) -> list[list[int]]:
        accesses = [store.target.access for store in self.stores]
        for tree in self.trees:
            accesses += [x.access for x in walk(tree) if isinstance(x, Leaf | Position)]
        groups: list[list[int]] = []
        for dim, size in enumerate(sizes):
            if size == 1:
                continue
            last = groups[-1][-1] if groups else None
            if last is not None and all(
                one.strides[last] == one.strides[dim] * size for one in accesses
            ):
                groups[-1].append(dim)
            else:
                groups.append([dim])
        return groups


def _axis(size: int) -> Axis:
    block = power_of_two(size)
    return Axis(f"tl.arange(0, {block})", size, str(block), bound_of(size, block))


def _hoist(scope: Scope, tree: Tree, axis: int) -> None:
    """Computes the largest parts of a tree that do not move along an axis."""
    if axis not in scope.depends(tree):
        scope.term(tree)
        return
    for part in parts_of(tree):
        _hoist(scope, part, axis)
