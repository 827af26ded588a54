"""Trees: a view of a tree is the tree of views; rows of shapes."""

from __future__ import annotations

import pytest

from graphopt.codegen.rows.access import contiguous
from graphopt.codegen.rows.tree import (
    Apply,
    Buffer,
    Leaf,
    Number,
    RefusedError,
    Rows,
    map_view,
    walk,
)
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym

T, S = sym("T"), sym("S")


def test_views_of_a_tree() -> None:
    x = Leaf(Buffer("x", DType.BF16), contiguous((T, 8)))
    ids = Leaf(Buffer("ids", DType.I64), contiguous((T, 8)))
    y = Leaf(Buffer("y", DType.F32), contiguous((T, 8)), ((ids, 64),))
    tree = Apply("a * b", (Apply("a + b", (x, x), DType.F32, "float"), y), DType.F32, "float")
    found = map_view(tree, lambda access: access.reshape((T, 2, 4)))
    assert isinstance(found, Apply)
    total, last = found.args
    assert isinstance(total, Apply)
    assert isinstance(last, Leaf)
    assert total.args[0] is total.args[1]  # what was shared still is
    assert isinstance(index := last.indices[0][0], Leaf)
    assert index.access.shape == (T, 2, 4)
    assert len(list(walk(found))) == 5
    assert map_view(tree, lambda access: access.permute((1, 0)).reshape((T * 8,))) is None
    number = Number(1.0, "float")
    assert map_view(number, lambda access: None) is number


def test_rows_of_shapes() -> None:
    rows = Rows("T")
    assert rows.sizes((4, T, 24)) == (4, 1, 24)
    assert rows.sizes((T * 4, 6)) == (4, 6)
    assert rows.elements((T * 4, 6)) == 24
    assert rows.stride(contiguous((T * 4, 6))) == 24
    assert rows.has((T,))
    assert not rows.has((8,))
    for shape in ((T, T), (S, 8), (T + 1, 2)):
        with pytest.raises(RefusedError):
            rows.sizes(shape)
