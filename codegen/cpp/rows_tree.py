"""What one element of a value is made of: loads, positions, numbers, and functions of them.

A tree says how to compute the element at ``i, j, ..`` of a value. Its leaves say where in memory
they lie, each as a strided access of the value's own shape, so that a view of a tree is the same
tree with a view of every leaf. Trees are shared: what occurs twice is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import Dim, Expr, product, sym

from .access import Access
from .expression import Kind

FLOATS = ("float", "bf16", "f16")


class RefusedError(Exception):
    """No row program computes this: the reason, and the values or nodes at fault."""

    def __init__(self, reason: str, *culprits: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.culprits = tuple(map(str, culprits))


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory that holds a value.

    Attributes:
        name: the C++ pointer to it.
        ctype: type of its elements.
        row: elements of one row where a thread keeps only the row that it works on, 0 if all rows
            are the same; None where all rows are there and any may be read.
        single: whether it is a variable, not a pointer.
        first: the C++ name of the column that it begins with, if not the first.
    """

    name: str
    ctype: str
    row: Dim | None = None
    single: bool = False
    first: str = ""

    @property
    def kind(self) -> Kind:
        """What its elements are computed with."""
        if self.ctype in FLOATS or self.ctype == "auto":
            return "float"
        return "bool" if self.ctype == "bool" else "int"


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """An element of a buffer.

    Attributes:
        buffer: the memory.
        access: where in it.
        indices: further terms of the address: a tree that gives a position, times a stride.
    """

    buffer: Buffer
    access: Access
    indices: tuple[tuple[Tree, Dim], ...] = ()

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
        name: what to call it in C++.
    """

    scalar: str
    args: tuple[Tree, ...]
    dtype: DType
    kind: Kind
    name: str = ""


Tree = Leaf | Position | Number | Apply
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
    return Leaf(tree.buffer, access, tuple(indices))


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


@dataclass(frozen=True, slots=True)
class Loop:
    """Stores elements of values of one shape.

    Attributes:
        stores: where to, and what.
        values: the values that it computes.
    """

    stores: tuple[tuple[Leaf, Tree], ...]
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Reduce:
    """Stores what the last dimensions of a tree add up to.

    Attributes:
        how: ``sum``, ``max``, ``min``, ``product``, ``any`` or ``all``.
        target: where to; its shape is the tree's first dimensions.
        tree: what to reduce.
        over: shape of what is reduced.
        values: the values that it computes.
    """

    how: str
    target: Leaf
    tree: Tree
    over: tuple[int, ...]
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """Calls a function of the headers once for each element of a shape.

    Attributes:
        function: its C++ name.
        shape: how often; the shape of all accesses.
        args: C++ text, the address of a leaf, or the number that a tree gives.
        values: the values that it computes.
    """

    function: str
    shape: tuple[Dim, ...]
    args: tuple[str | Address | Tree, ...]
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Address:
    """The address of an element."""

    leaf: Leaf


@dataclass(frozen=True, slots=True)
class Declare:
    """Private memory for one row.

    Attributes:
        buffer: its name and type.
        elements: its size.
        place: bytes into the thread's scratch; None if it lies on the stack.
    """

    buffer: Buffer
    elements: int
    place: int | None


Statement = Loop | Reduce | Call | Declare
