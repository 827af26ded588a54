"""Trees at computed places, evaluated element by element."""

from __future__ import annotations

from itertools import product

import pytest

from graphopt.codegen.rows.access import Access, contiguous
from graphopt.codegen.rows.places import (
    along,
    assembled,
    at,
    computed,
    divided,
    position,
    reshaped,
    whole,
)
from graphopt.codegen.rows.shape import narrow
from graphopt.codegen.rows.tree import (
    Apply,
    Assembly,
    Buffer,
    Leaf,
    Number,
    Position,
    Reduced,
    RefusedError,
    Tree,
    walk,
)
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym

T = sym("T")
X = Buffer("x", DType.I64)


def _place(access: Access, at_: tuple[int, ...]) -> int:
    assert isinstance(access.offset, int)
    total = access.offset
    for by, number in zip(access.strides, at_, strict=True):
        assert isinstance(by, int)
        total += by * number
    return total


def _value(tree: Tree, place: tuple[int, ...]) -> int:
    """One element, where memory holds its own addresses."""
    match tree:
        case Number():
            assert isinstance(tree.value, int)
            return tree.value
        case Position():
            return _place(tree.access, place)
        case Leaf():
            if tree.holds is not None:
                assert _value(tree.holds, place), "what may not be loaded is"
            found = _place(tree.access, place)
            for index, by in tree.indices:
                assert isinstance(by, int)
                found += _value(index, place) * by
            return found
        case Reduced():
            assert tree.how == "sum"
            ranges = product(*map(range, tree.over))
            return sum(_value(tree.tree, (*place, *inner)) for inner in ranges)
        case Apply(scalar="where(a, b, c)"):
            return _value(tree.args[1 if _value(tree.args[0], place) else 2], place)
        case Apply(scalar="a and b"):
            return int(all(_value(arg, place) for arg in tree.args))
        case Apply():
            names = dict(zip("abc", (_value(arg, place) for arg in tree.args), strict=False))
            words = {"floor_div": lambda a, b: a // b, "remainder": lambda a, b: a % b}
            return int(eval(tree.scalar, words, names))  # noqa: S307 - of our own making


def _all(tree: Tree, shape: tuple[int, ...]) -> list[int]:
    return [_value(tree, place) for place in product(*map(range, shape))]


def test_a_place_that_a_tree_says() -> None:
    x = Leaf(X, contiguous((4, 5)))
    back = whole("3 - a", position((4, 5), 0))
    found = at(x, [computed((4, 5), back), along((4, 5), 1)])
    assert _all(found, (4, 5)) == [5 * (3 - i) + j for i in range(4) for j in range(5)]
    total = Reduced("sum", x, (5,))
    assert _all(at(total, [computed((4,), whole("3 - a", position((4,), 0)))]), (4,)) == [
        sum(5 * (3 - i) + j for j in range(5)) for i in range(4)
    ]
    place = Position(Access((4, 5), (10, 1), 3))
    assert _all(at(place, [computed((4, 5), back), along((4, 5), 1)]), (4, 5))[0] == 33


def test_what_is_shared_stays_shared() -> None:
    x = Leaf(X, contiguous((4,)))
    tree = Apply("a + b", (x, x), DType.I64, "int")
    found = at(tree, [computed((4,), whole("a * 2", position((4,), 0)))])
    assert isinstance(found, Apply)
    assert found.args[0] is found.args[1]


def test_parts_are_read_where_they_are() -> None:
    x, y = Leaf(X, contiguous((3, 2))), Leaf(Buffer("y", DType.I64), contiguous((3, 4)))
    made = Assembly(((narrow(1, 0, 2), x), (narrow(1, 2, 4), y)))
    want = [2 * i + j if j < 2 else 4 * i + j - 2 for i in range(3) for j in range(6)]
    assert _all(assembled(made, (3, 6), DType.I64), (3, 6)) == want
    evens, odds = narrow(1, 0, 2, 2), narrow(1, 1, 2, 2)
    turned = Assembly(((evens, Leaf(X, Access((3, 2), (4, 2), 1))), (odds, x)))
    assert _all(assembled(turned, (3, 4), DType.I64), (1, 4)) == [1, 0, 3, 1]
    repeated = Assembly(
        ((lambda access: access.split(1, 2, 3), Leaf(X, Access((3, 2, 3), (2, 1, 0)))),)
    )
    assert _all(assembled(repeated, (3, 6), DType.I64), (1, 6)) == [0, 0, 0, 1, 1, 1]


def test_rows_are_not_put_together() -> None:
    x = Leaf(X, contiguous((T, 2)))
    made = Assembly(((narrow(0, 0, T), x), (narrow(0, T, T), x)))
    with pytest.raises(RefusedError, match="rows are put together"):
        assembled(made, (2 * T, 2), DType.I64)


def test_another_shape() -> None:
    turned = Leaf(X, contiguous((4, 6)).permute((1, 0)))  # [6, 4]
    order = [6 * j + i for i in range(6) for j in range(4)]
    for shape in ((24,), (3, 8), (2, 3, 4), (1, 24, 1)):
        assert _all(reshaped(turned, (6, 4), shape), shape) == order
    rows = Leaf(X, contiguous((T, 4, 6)).permute((0, 2, 1)))
    found = reshaped(rows, (T, 6, 4), (T, 24))
    (leaf,) = (one for one in walk(found) if isinstance(one, Leaf))
    assert leaf.access.strides == (24, 0)
    for old, new in (((T, 4), (4, T)), ((T, 4), (T * 4,)), ((2, T, 4), (T, 2, 4))):
        with pytest.raises(RefusedError, match="takes rows apart"):
            reshaped(Leaf(X, contiguous(old)), old, new)


@pytest.mark.parametrize("by", [2, 3, 4, 8])
def test_quotients_that_are_places(by: int) -> None:
    linear = 0
    for strides, offset in product(((8, 1), (4, 2), (12, 3), (1, 8)), (0, 4, 5)):
        access = Access((5, 4), strides, offset)
        found = divided(access, by)
        if found is None:
            continue
        linear += 1
        for place in product(range(5), range(4)):
            want = divmod(_place(access, place), by)
            assert (_place(found[0], place), _place(found[1], place)) == want
    assert linear
    assert divided(Access((T, 4), (1, 4)), by) is None
    assert divided(Access((T, 2), (8, 1), 4), 4) is not None
