"""What is known of places before a kernel runs: conditions that hold, quotients that are places.

before:  choices by position, indices computed with quotients, as ``rows.places`` makes them
after:   one of the parts where all of the tile is in it; strides where an index grows linearly
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from graphopt.ir.shape import Dim

from ..rows.access import Access
from ..rows.places import divided
from ..rows.tree import Apply, Leaf, Number, Position, Tree

_KNOWN: Mapping[str, Callable[[int, int], int | bool]] = {
    "a >= b": operator.ge,
    "a < b": operator.lt,
    "a == b": operator.eq,
    "a and b": lambda a, b: bool(a and b),
    "floor_div(a, b)": operator.floordiv,
    "remainder(a, b)": operator.mod,
}
_DIVIDED = ("floor_div(a, b)", "remainder(a, b)")
# The axes that a tree moves along.
Moves = Callable[[Tree], frozenset[int]]


def known(tree: Tree, moves: Moves) -> int | bool | None:
    """What a place or a condition is, where it is the same everywhere; else None."""
    match tree:
        case Number(value=int() as value):
            return value
        case Position() if not moves(tree) and isinstance(tree.access.offset, int):
            return tree.access.offset
        case Apply(scalar=scalar) if scalar in _KNOWN:
            a, b = (known(arg, moves) for arg in tree.args)
            if scalar == "a and b" and (a is False or b is False):
                return False
            return None if a is None or b is None else _KNOWN[scalar](a, b)
    return None


def division(tree: Apply) -> str | None:
    """Triton's operator for a quotient or a rest of what is never negative, else None.

    Triton divides towards zero, which there is down; and it sees that neighbours stay neighbours,
    so that they are loaded at once.
    """
    if tree.scalar not in _DIVIDED or not all(map(_is_natural, tree.args)):
        return None
    return ("//", "%")[_DIVIDED.index(tree.scalar)]


def _is_natural(tree: Tree) -> bool:
    match tree:
        case Number(value=int() as value):
            return value >= 0
        case Position(access=access):
            return all(
                isinstance(one, int) and one >= 0 for one in (*access.strides, access.offset)
            )
        case Apply(scalar=scalar) if scalar in _DIVIDED:
            return all(map(_is_natural, tree.args))
    return False


def simple(tree: Tree, moves: Moves) -> Tree:
    """A tree without what is known of it."""
    if (value := known(tree, moves)) is not None:
        return Number(value, tree.kind)
    match tree:
        case Apply(scalar="a and b", args=(first, second)):
            if known(second, moves):
                return simple(first, moves)
            return simple(second, moves) if known(first, moves) else tree
        case Apply(scalar="where(a, b, c)", args=(holds, first, second)):
            chosen = known(holds, moves)
            return tree if chosen is None else simple(first if chosen else second, moves)
        case Apply(scalar=scalar) if scalar in _DIVIDED:
            return _quotient(tree, moves)
        case Leaf() if tree.indices:
            return _direct(tree, moves)
    return tree


def _quotient(tree: Apply, moves: Moves) -> Tree:
    """A quotient or a rest, as the place that it is if it grows linearly."""
    place, by = simple(tree.args[0], moves), tree.args[1]
    if not (isinstance(place, Position) and isinstance(by, Number) and isinstance(by.value, int)):
        return tree
    found = divided(place.access, by.value)
    return tree if found is None else Position(found[_DIVIDED.index(tree.scalar)])


def _direct(leaf: Leaf, moves: Moves) -> Leaf:
    """A load without those indices that grow linearly: they are strides."""
    access = leaf.access
    kept: list[tuple[Tree, Dim]] = []
    for index, by in leaf.indices:
        place = simple(index, moves)
        if isinstance(place, Number) and isinstance(place.value, int):
            access = Access(access.shape, access.strides, access.offset + by * place.value)
        elif isinstance(place, Position):
            pairs = zip(access.strides, place.access.strides, strict=True)
            strides = tuple(mine + by * its for mine, its in pairs)
            access = Access(access.shape, strides, access.offset + by * place.access.offset)
        else:
            kept.append((index, by))
    return Leaf(leaf.buffer, access, tuple(kept), leaf.holds)
