"""What a row program does, in order: loops that store, reductions, calls, private memory."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Value
from graphopt.ir.shape import Dim

from ..rows.tree import Buffer, Leaf, Tree


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
