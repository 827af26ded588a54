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
    hoist,
    parts_of,
    power_of_two,
)


@dataclass(frozen=True, slots=True)
class Block:
    """How much of a row one tile takes.

    Attributes:
        number: of the constants that say how long a block of its outermost dimension is, how many
            programs share the blocks, and which program is the first of them.
        size: that dimension.
        rest: elements of the others, padded.
    """

    number: int
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
        narrows: whether some tile is larger than what is stored of it.
        shares: whether programs side by side compute results of different shapes.
        blocks: how rows are cut where they are not.
    """

    notes: Callable[[Sequence[Value]], Sequence[str]] = _no_notes
    whole_rows: bool = False
    elements: int = 1
    narrows: bool = False
    shares: bool = False
    blocks: list[Block] = field(default_factory=list)

    def print(self, stores: Sequence[Store]) -> None:
        """Prints all stores, those of one shape together."""
        groups: dict[tuple[int, ...], list[Store]] = {}
        for store in stores:
            groups.setdefault(self.rows.sizes(store.target.access.shape), []).append(store)
        plans = [_Plan(self.rows, sizes, group) for sizes, group in groups.items()]
        self.whole_rows = any(plan.needs_rows() for plan in plans)
        shared = [plan for plan in plans if plan.sizes]
        self.shares = not self.whole_rows and len(shared) > 1
        if self.shares:
            self.put("part = tl.program_id(1)")
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
            self.held = 1
            self._tile(Scope(self, axes, plan.groups, plan.rank), plan)
            self.elements = max(self.elements, prod(padded), self.held)
            self.narrows = self.narrows or self.held > prod(padded)
            return
        self._blocks(axes, plan, rest)

    def _blocks(self, axes: list[Axis], plan: _Plan, rest: int) -> None:
        """A tile after the other, along the outermost dimension of a row."""
        size, place, number = plan.sizes[0], self.names.fresh("block"), len(self.blocks)
        block, first, parts = f"BLOCK{number}", f"FIRST{number}", f"PARTS{number}"
        start, step = "tl.program_id(1)", parts
        if self.whole_rows:
            start, step = "0", "1"
        bound = "" if size == power_of_two(size) else str(size)
        index = f"({place} * {block} + tl.arange(0, {block}))"
        axes[1] = Axis(index, size, block, bound, whole=False)
        scope = Scope(self, axes, plan.groups, plan.rank)
        self.held = 1
        if self.shares:
            start = f"part - {first}"
            self.put(f"if (part >= {first}) & (part < {first} + {parts}):")
            self.indent += 1
        trees = plan.trees
        scope.count(trees)
        for tree in trees:
            hoist(scope, tree, 1)
        self.elements = max(self.elements, self.held)
        self.held = 1
        self.put(f"for {place} in range({start}, tl.cdiv({size}, {block}), {step}):")
        self.indent += 1
        self._stores(scope, plan)
        self.indent -= 1 + self.shares
        self.blocks.append(Block(number, size, max(rest, self.held)))

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
