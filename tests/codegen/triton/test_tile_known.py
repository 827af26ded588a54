"""Conditions that always hold, choices of one part, quotients that are places."""

from __future__ import annotations

from graphopt.codegen.rows.access import Access
from graphopt.codegen.rows.places import both, position, whole
from graphopt.codegen.rows.pointwise import apply
from graphopt.codegen.rows.tree import Apply, Buffer, Leaf, Number, Position, Tree
from graphopt.codegen.triton.tile_known import division, known, simple
from graphopt.ir.dtype import DType

X, Y = (Leaf(Buffer(name, DType.F32), Access((8,), (1,))) for name in "xy")


def _moves(tree: Tree) -> frozenset[int]:
    """A position moves if its stride is not 0."""
    return frozenset({1} if isinstance(tree, Position) and any(tree.access.strides) else ())


def _still(place: int) -> Position:
    return Position(Access((8,), (0,), place))


def _below(place: Tree, stop: int) -> Apply:
    return apply("a < b", place, Number(stop, "int"), dtype=DType.BOOL)


def test_known_places() -> None:
    assert known(_below(_still(3), 5), _moves) is True
    assert known(_below(_still(5), 5), _moves) is False
    assert known(_below(position((8,), 0), 5), _moves) is None
    never = both(_below(position((8,), 0), 5), _below(_still(5), 5))
    assert never is not None
    assert known(never, _moves) is False


def test_choices() -> None:
    for place, chosen in ((3, X), (5, Y)):
        tree = apply("where(a, b, c)", _below(_still(place), 5), X, Y)
        assert simple(tree, _moves) is chosen
    moving = _below(position((8,), 0), 5)
    assert simple(apply("a and b", _below(_still(3), 5), moving), _moves) is moving
    assert simple(apply("a and b", moving, _below(_still(3), 5)), _moves) is moving


def test_indices_become_strides() -> None:
    half = whole("remainder(a, b)", position((4,), 0, 4), 4)
    leaf = Leaf(X.buffer, Access((4,), (1,), 1), ((half, 10), (whole("a * b", half, half), 2)))
    found = simple(leaf, _moves)
    assert isinstance(found, Leaf)
    assert found.access == Access((4,), (11,), 1)
    assert len(found.indices) == 1
    assert simple(X, _moves) is X


def test_what_is_never_negative_is_divided_as_it_is() -> None:
    place = position((8,), 0)
    half = whole("floor_div(a, b)", place, 4)
    assert division(half) == "//"
    assert division(whole("remainder(a, b)", half, 2)) == "%"
    assert division(whole("a + b", place, 2)) is None
    for other in (X, position((8,), 0, -1), position((8,), 0, 0, -1), whole("a * b", place, 2)):
        assert division(whole("floor_div(a, b)", other, 4)) is None
    assert division(whole("remainder(a, b)", place, -4)) is None
