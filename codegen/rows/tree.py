"""What one element of a value is made of: loads, positions, numbers, and functions of them.

A tree says how to compute the element at ``i, j, ..`` of a value. Its leaves say where in memory
they lie, each as a strided access of the value's own shape, so that a view of a tree is the same
tree with a view of every leaf. Trees are shared: what occurs twice is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, Expr, product, sym

from .access import Access

# What numbers are computed with.
Kind = Literal["float", "int", "bool"]


class RefusedError(Exception):
    """No row program computes this: the reason, and the values or nodes at fault."""

    def __init__(self, reason: str, *culprits: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.culprits = tuple(map(str, culprits))


def kind_of(dtype: DType) -> Kind:
    """What a value of ``dtype`` is computed with."""
    return "float" if dtype.is_float else "int" if dtype.is_int else "bool"


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory that holds a value.

    Attributes:
        name: the pointer to it.
        dtype: type of its elements; None for a state.
        row: elements of one row where a thread keeps only the row that it works on, 0 if all rows
            are the same; None where all rows are there and any may be read.
        single: whether it is a variable, not a pointer.
        first: name of the column that it begins with, if not the first.
        spelled: how the target names the type, where it is not that of the dtype.
    """

    name: str
    dtype: DType | None
    row: Dim | None = None
    single: bool = False
    first: str = ""
    spelled: str = ""

    @property
    def kind(self) -> Kind:
        """What its elements are computed with."""
        return kind_of(self.dtype) if self.dtype is not None else "int"


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """An element of a buffer.

    Attributes:
        buffer: the memory.
        access: where in it.
        indices: further terms of the address: a tree that gives a position, times a stride.
        holds: where it may be loaded, and is read at all; None for everywhere.
    """

    buffer: Buffer
    access: Access
    indices: tuple[tuple[Tree, Dim], ...] = ()
    holds: Tree | None = None

    @property
    def kind(self) -> Kind:
        """What it is computed with."""
        return self.buffer.kind


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """A number that grows linearly with the position: the address of ``access`` itself."""

    access: Access

    @property
    def kind(self) -> Kind:
        """What it is computed with."""
        return "int"


@dataclass(frozen=True, slots=True, eq=False)
class Number:
    """The same number everywhere."""

    value: bool | int | float | Expr
    kind: Kind


@dataclass(frozen=True, slots=True, eq=False)
class Apply:
    """A function of elements.

    Attributes:
        scalar: expression over ``a``, ``b``, ``c``, in the words of ``graphopt.ir.ops_scalar``.
        args: what the names mean, in order.
        dtype: element type of the result.
        kind: what the result is computed with.
        name: what to call it.
    """

    scalar: str
    args: tuple[Tree, ...]
    dtype: DType
    kind: Kind
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """What the last dimensions of a tree add up to, for targets that keep no memory for it.

    Attributes:
        how: ``sum``, ``max``, ``min``, ``product``, ``any`` or ``all``.
        tree: what to reduce.
        over: the dimensions that go.
    """

    how: str
    tree: Tree
    over: tuple[int, ...]

    @property
    def kind(self) -> Kind:
        """What the result is computed with."""
        return self.tree.kind


Tree = Leaf | Position | Number | Apply | Reduced
View = Callable[[Access], Access | None]


@dataclass(frozen=True, slots=True, eq=False)
class Assembly:
    """A value that is put together from parts; each is a view of the memory that it goes to."""

    parts: tuple[tuple[Callable[[Access], Access], Tree], ...]


def map_view(tree: Tree, view: View) -> Tree | None:
    """The tree of a view of a value; None if an access cannot be viewed so."""
    return _map(tree, view, {})


def _map(tree: Tree, view: View, done: dict[int, Tree | None]) -> Tree | None:
    if id(tree) not in done:
        done[id(tree)] = _mapped(tree, view, done)
    return done[id(tree)]


def _mapped(tree: Tree, view: View, done: dict[int, Tree | None]) -> Tree | None:
    if isinstance(tree, Number):
        return tree
    if isinstance(tree, Apply):
        args = [_map(arg, view, done) for arg in tree.args]
        known = [arg for arg in args if arg is not None]
        if len(known) < len(args):
            return None
        return Apply(tree.scalar, tuple(known), tree.dtype, tree.kind, tree.name)
    if isinstance(tree, Reduced):
        inner = _map(tree.tree, _on_first(view, len(tree.over)), {})
        return None if inner is None else Reduced(tree.how, inner, tree.over)
    access = view(tree.access)
    if access is None:
        return None
    if isinstance(tree, Position):
        return Position(access)
    indices = []
    for index, stride in tree.indices:
        moved = _map(index, view, done)
        if moved is None:
            return None
        indices.append((moved, stride))
    holds = None if tree.holds is None else _map(tree.holds, view, done)
    if holds is None and tree.holds is not None:
        return None
    return Leaf(tree.buffer, access, tuple(indices), holds)


def _on_first(view: View, kept: int) -> View:
    """``view`` of all dimensions but the last ``kept``."""

    def partly(access: Access) -> Access | None:
        rank = len(access.shape) - kept
        found = view(Access(access.shape[:rank], access.strides[:rank], access.offset))
        if found is None:
            return None
        shape, strides = access.shape[rank:], access.strides[rank:]
        return Access((*found.shape, *shape), (*found.strides, *strides), found.offset)

    return partly


def walk(tree: Tree) -> Iterator[Tree]:
    """The nodes of a tree, operands before what reads them; shared ones once."""
    seen: set[int] = set()

    def visit(one: Tree) -> Iterator[Tree]:
        if id(one) in seen:
            return
        seen.add(id(one))
        if isinstance(one, Apply):
            for arg in one.args:
                yield from visit(arg)
        if isinstance(one, Leaf):
            for index, _ in one.indices:
                yield from visit(index)
            if one.holds is not None:
                yield from visit(one.holds)
        if isinstance(one, Reduced):
            yield from visit(one.tree)
        yield one

    yield from visit(tree)


@dataclass(frozen=True, slots=True)
class Rows:
    """The dimension that rows are counted along: a symbol, or None."""

    symbol: str | None

    def count(self, size: Dim) -> int | None:
        """How many elements of a dimension one row has; None if it has no rows.

        Raises:
            RefusedError: the dimension is not a whole number of rows.
        """
        if isinstance(size, int):
            return None
        if self.symbol is not None:
            times = size // sym(self.symbol)
            if isinstance(times, int) and times * sym(self.symbol) == size:
                return times
        raise RefusedError(f"a dimension of size {size} is not a whole number of rows")

    def sizes(self, shape: tuple[Dim, ...]) -> tuple[int, ...]:
        """The shape of one row of a value; dimension by dimension.

        Raises:
            RefusedError: two dimensions are rows, or one is not whole rows.
        """
        counts = [self.count(size) for size in shape]
        if sum(count is not None for count in counts) > 1:
            raise RefusedError(f"rows are not one dimension of [{', '.join(map(str, shape))}]")
        return tuple(size if isinstance(size, int) else self.count(size) or 0 for size in shape)

    def has(self, shape: tuple[Dim, ...]) -> bool:
        """Whether a value has a row for each step of the symbol."""
        return any(self.count(size) is not None for size in shape)

    def elements(self, shape: tuple[Dim, ...]) -> int:
        """Elements of one row."""
        total = product(self.sizes(shape))
        return total if isinstance(total, int) else 0

    def stride(self, access: Access) -> Dim:
        """How far the next row is."""
        total: Dim = 0
        for size, stride in zip(access.shape, access.strides, strict=True):
            if (count := self.count(size)) is not None:
                total = total + count * stride
        return total
