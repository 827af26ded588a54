"""Trees read at other places than strides can say: coordinates that are computed.

before:  a value, and for each of its dimensions which element a reader wants, as a tree
after:   a tree of the reader's shape; loads whose addresses have computed terms

What is put together from parts becomes a choice by position: each part is read where it lies, and
its loads happen nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, product

from .access import Access
from .tree import (
    Apply,
    Assembly,
    Leaf,
    Number,
    Position,
    Reduced,
    RefusedError,
    Tree,
    map_view,
)

# Further apart than any dimension is long: where each dimension's strides begin in a probe.
_APART = 1 << 32


@dataclass(frozen=True, slots=True)
class Coordinate:
    """Which element along a dimension is read.

    Attributes:
        access: the part of it that grows linearly with the reader's position: an address.
        index: what is added to that, a tree of the reader's shape; None for nothing.
    """

    access: Access
    index: Tree | None = None


def along(shape: tuple[Dim, ...], dim: int, offset: Dim = 0) -> Coordinate:
    """The reader's own position along one of its dimensions."""
    strides = (0 for _ in shape)
    return Coordinate(Access(shape, tuple(s + (i == dim) for i, s in enumerate(strides)), offset))


def same(shape: tuple[Dim, ...]) -> list[Coordinate]:
    """The reader's own positions."""
    return [along(shape, dim) for dim in range(len(shape))]


def computed(shape: tuple[Dim, ...], index: Tree) -> Coordinate:
    """What a tree of the reader's shape says."""
    return Coordinate(Access(shape, tuple(0 for _ in shape)), index)


def position(shape: tuple[Dim, ...], dim: int, offset: Dim = 0, step: int = 1) -> Position:
    """The reader's position along one of its dimensions, as a number."""
    strides = tuple(step if other == dim else 0 for other in range(len(shape)))
    return Position(Access(shape, strides, offset))


def whole(scalar: str, *args: Tree | int) -> Apply:
    """An expression of integers."""
    given = tuple(Number(arg, "int") if isinstance(arg, int) else arg for arg in args)
    return Apply(scalar, given, DType.I64, "int")


def divided(access: Access, by: int) -> tuple[Access, Access] | None:
    """The quotient and the rest of a position, if both grow linearly; None if not."""
    if not isinstance(access.offset, int):
        return None
    most = access.offset % by
    high: list[Dim] = []
    low: list[Dim] = []
    for size, stride in zip(access.shape, access.strides, strict=True):
        if not isinstance(stride, int):
            return None
        if stride % by == 0:
            high, low = [*high, stride // by], [*low, 0]
        elif isinstance(size, int) and stride > 0:
            high, low = [*high, 0], [*low, stride]
            most += (size - 1) * stride
        else:
            return None
    if most >= by:
        return None
    return (
        Access(access.shape, tuple(high), access.offset // by),
        Access(access.shape, tuple(low), access.offset % by),
    )


def both(a: Tree | None, b: Tree | None) -> Tree | None:
    """Where two conditions hold; None for everywhere."""
    if a is None or b is None:
        return b if a is None else a
    return Apply("a and b", (a, b), DType.BOOL, "bool")


def at(tree: Tree, coordinates: Sequence[Coordinate], holds: Tree | None = None) -> Tree:
    """A tree read at ``coordinates``, one for each of its dimensions.

    Args:
        tree: what to read.
        coordinates: where, of the reader's shape.
        holds: the only places where it may be loaded, of the reader's shape.
    """
    return _Reader(coordinates, holds).read(tree)


class _Reader:
    """Reads trees at some coordinates; what is shared stays shared."""

    def __init__(self, coordinates: Sequence[Coordinate], holds: Tree | None) -> None:
        self.coordinates = coordinates
        self.holds = holds
        self.done: dict[int, tuple[Tree, Tree]] = {}

    def read(self, tree: Tree) -> Tree:
        if id(tree) not in self.done:
            self.done[id(tree)] = (tree, self._made(tree))
        return self.done[id(tree)][1]

    def _made(self, tree: Tree) -> Tree:
        match tree:
            case Number():
                return tree
            case Apply():
                args = tuple(map(self.read, tree.args))
                return Apply(tree.scalar, args, tree.dtype, tree.kind, tree.name)
            case Reduced():
                return Reduced(tree.how, self._inside(tree.over).read(tree.tree), tree.over)
            case Position():
                found: Tree = Position(self._access(tree.access))
                for index, by in self._indices(tree.access):
                    found = whole("a + b * c", found, index, Number(by, "int"))
                return found
            case Leaf():
                indices = [(self.read(index), by) for index, by in tree.indices]
                indices += self._indices(tree.access)
                own = None if tree.holds is None else self.read(tree.holds)
                access = self._access(tree.access)
                return Leaf(tree.buffer, access, tuple(indices), both(own, self.holds))

    def _access(self, access: Access) -> Access:
        shape = self.coordinates[0].access.shape if self.coordinates else ()
        strides: list[Dim] = [0 for _ in shape]
        offset = access.offset
        for by, one in zip(access.strides, self.coordinates, strict=True):
            strides = [s + by * o for s, o in zip(strides, one.access.strides, strict=True)]
            offset = offset + by * one.access.offset
        return Access(shape, tuple(strides), offset)

    def _indices(self, access: Access) -> list[tuple[Tree, Dim]]:
        pairs = zip(self.coordinates, access.strides, strict=True)
        return [(one.index, by) for one, by in pairs if one.index is not None and by != 0]

    def _inside(self, over: tuple[int, ...]) -> _Reader:
        """The same places, for a tree with further dimensions."""

        def wide(access: Access) -> Access:
            return Access(
                (*access.shape, *over), (*access.strides, *(0 for _ in over)), access.offset
            )

        def widened(tree: Tree | None) -> Tree | None:
            return None if tree is None else map_view(tree, wide)

        outer = [Coordinate(wide(one.access), widened(one.index)) for one in self.coordinates]
        shape = (*(self.coordinates[0].access.shape if self.coordinates else ()), *over)
        own = [along(shape, len(shape) - len(over) + place) for place in range(len(over))]
        return _Reader([*outer, *own], widened(self.holds))


# ---- What is put together -----------------------------------------------------------------------


def assembled(made: Assembly, shape: tuple[Dim, ...], dtype: DType) -> Tree:
    """What is put together from parts as one tree, which chooses by position.

    Raises:
        RefusedError: parts are rows.
    """
    chosen: Tree | None = None
    for place, tree in reversed(made.parts):
        part = _part(place(_probe(shape)), shape)
        if part is None:
            continue
        coordinates, holds = part
        found = at(tree, coordinates, holds)
        if chosen is not None and holds is not None:
            found = Apply("where(a, b, c)", (holds, found, chosen), dtype, chosen.kind)
        chosen = found
    if chosen is None:
        raise RefusedError("nothing is put together")
    return chosen


def _probe(shape: tuple[Dim, ...]) -> Access:
    return Access(shape, tuple(_APART**dim for dim in range(len(shape))))


def _part(access: Access, shape: tuple[Dim, ...]) -> tuple[list[Coordinate], Tree | None] | None:
    """Where a reader of the whole finds each dimension of a part, and where there is one.

    None if the part is empty.
    """
    if 0 in access.shape:
        return None
    offset = access.offset
    members: dict[int, list[tuple[int, int]]] = {dim: [] for dim in range(len(shape))}
    for place, stride in enumerate(access.strides):
        if not isinstance(stride, int) or not isinstance(offset, int):
            raise RefusedError("rows are put together")
        if stride:
            dim = max(d for d in members if _APART**d <= stride)
            members[dim].append((stride // _APART**dim, place))
    coordinates = [Coordinate(Access(shape, tuple(0 for _ in shape))) for _ in access.shape]
    holds: Tree | None = None
    for dim in reversed(range(len(shape))):
        start, offset = divmod(offset, _APART**dim)
        steps = sorted(members[dim], reverse=True)
        holds = both(holds, _covered(access, shape, dim, start, steps))
        for number, (step, place) in enumerate(steps):
            if len(steps) == 1 and step == 1:
                coordinates[place] = along(shape, dim, -start)
                continue
            index = position(shape, dim, -start)
            found = index if step == 1 else whole("floor_div(a, b)", index, step)
            if number:
                found = whole("remainder(a, b)", found, _size(access.shape[place]))
            coordinates[place] = computed(shape, found)
    return coordinates, holds


def _covered(
    access: Access,
    shape: tuple[Dim, ...],
    dim: int,
    start: int,
    steps: Sequence[tuple[int, int]],
) -> Tree | None:
    """Where along one dimension a part has elements; None for everywhere."""
    size = shape[dim]
    if not isinstance(size, int):
        if start or (len(steps) == 1 and access.shape[steps[0][1]] != size):
            raise RefusedError("rows are put together")
        return None
    stop = start + sum((_size(access.shape[place]) - 1) * step for step, place in steps) + 1
    place, found = position(shape, dim), None
    if start:
        found = both(found, Apply("a >= b", (place, Number(start, "int")), DType.BOOL, "bool"))
    finest = steps[-1][0] if steps else 1
    if stop + finest - 1 < size:
        found = both(found, Apply("a < b", (place, Number(stop, "int")), DType.BOOL, "bool"))
    if finest > 1:
        rest = whole("remainder(a, b)", position(shape, dim, -start), finest)
        found = both(found, Apply("a == b", (rest, Number(0, "int")), DType.BOOL, "bool"))
    return found


def _size(size: Dim) -> int:
    if not isinstance(size, int):
        raise RefusedError("rows are put together")
    return size


# ---- The same elements under another shape ------------------------------------------------------


def reshaped(tree: Tree, old: tuple[Dim, ...], new: tuple[Dim, ...]) -> Tree:
    """A tree under another shape, whatever its strides.

    Raises:
        RefusedError: elements change rows.
    """
    mine, its = _row_dim(old), _row_dim(new)
    coordinates: list[Coordinate] = [along(new, 0) for _ in old] if new else []
    if mine is None and its is None:
        _regroup(coordinates, old, new, range(len(old)), range(len(new)))
        return at(tree, coordinates)
    if mine is None or its is None or old[mine] != new[its]:
        raise RefusedError("a view takes rows apart")
    if product(old[:mine]) != product(new[:its]):
        raise RefusedError("a view takes rows apart")
    coordinates[mine] = along(new, its)
    _regroup(coordinates, old, new, range(mine), range(its))
    _regroup(coordinates, old, new, range(mine + 1, len(old)), range(its + 1, len(new)))
    return at(tree, coordinates)


def _row_dim(shape: tuple[Dim, ...]) -> int | None:
    found = [dim for dim, size in enumerate(shape) if not isinstance(size, int)]
    if len(found) > 1:
        raise RefusedError("a view takes rows apart")
    return found[0] if found else None


def _regroup(
    coordinates: list[Coordinate],
    old: tuple[Dim, ...],
    new: tuple[Dim, ...],
    mine: range,
    its: range,
) -> None:
    """Coordinates of some dimensions whose elements others have in the same order."""
    strides: list[Dim] = [0 for _ in new]
    inner: Dim = 1
    for dim in reversed(its):
        strides[dim], inner = inner, inner * new[dim]
    place = Position(Access(new, tuple(strides)))
    below = 1
    for dim in reversed(mine):
        size = _size(old[dim])
        index: Tree = place if below == 1 else whole("floor_div(a, b)", place, below)
        if dim != mine[0]:
            index = whole("remainder(a, b)", index, size)
        coordinates[dim] = computed(new, index) if size > 1 else computed(new, Number(0, "int"))
        below *= size
