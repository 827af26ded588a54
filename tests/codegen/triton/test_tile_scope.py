"""Terms of a tile: computed once, on as few axes as they move along, loaded where they may be."""

from __future__ import annotations

from graphopt.codegen.rows.access import Access, contiguous
from graphopt.codegen.rows.names import Names
from graphopt.codegen.rows.pointwise import apply
from graphopt.codegen.rows.tree import Apply, Buffer, Leaf, Number, Position, Reduced, Rows
from graphopt.codegen.triton.tile_scope import Axis, Page, Scope, bound_of, power_of_two
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym

from ..rows.cases import operation

T = sym("T")
X, W = Buffer("x", DType.BF16), Buffer("w", DType.F32)
GRAPH = operation("iota", [], start=0, end=1, step=1)


def _scope(size: int = 64) -> Scope:
    page = Page(Rows("T"), Names(GRAPH))
    block = power_of_two(size)
    inner = Axis(f"tl.arange(0, {block})", size, str(block), bound_of(size, block))
    return Scope(page, [Axis("row", None, "ROWS", "T"), inner], [[1]], 2)


def test_a_load_has_the_masks_of_its_axes() -> None:
    scope = _scope(60)
    scope.term(Leaf(X, contiguous((T, 60))))
    scope.term(Leaf(W, Access((T, 60), (0, 1))))
    assert scope.page.lines == [
        "    row1 = row[:, None]",
        "    mask1 = row1 < T",
        "    i1 = tl.arange(0, 64)[None, :]",
        "    mask2 = i1 < 60",
        "    x_tile = tl.load(x + (row1 * 60 + i1), mask=mask1 & mask2, other=0.0).to(tl.float32)",
        "    w_tile = tl.load(w + i1, mask=mask2, other=0.0)",
    ]


def test_equal_places_are_loaded_once() -> None:
    scope = _scope()
    first, second = (Leaf(X, contiguous((T, 64))) for _ in range(2))
    assert scope.term(first) == scope.term(second)
    assert sum("tl.load" in line for line in scope.page.lines) == 1


def test_a_reduction_goes_along_an_axis_that_is_there() -> None:
    scope = _scope()
    line = Leaf(X, Access((T, 64, 64), (64, 0, 1)))
    found = scope.term(Reduced("sum", apply("square(a)", line), (64,)))
    assert scope.page.lines[-1] == "    sum1 = tl.sum(square(x_tile), 1, keep_dims=True)"
    assert scope.term(Leaf(X, contiguous((T, 64)))).text == "x_tile"
    assert found.text == "sum1"


def test_a_reduction_along_another_axis_is_on_a_wider_tile() -> None:
    scope = _scope()
    scope.term(Reduced("max", Leaf(X, Access((T, 64, 5), (5, 0, 1))), (5,)))
    assert scope.page.lines[-1] == ('    max1 = tl.max(tl.where(mask2, x_tile, float("-inf")), 2)')
    assert scope.page.held == 8


def test_a_long_reduction_is_a_loop_and_its_names_end_there() -> None:
    scope = _scope()
    line = Leaf(X, Access((T, 64, 40000), (40000, 0, 1)))
    scope.term(Reduced("sum", line, (40000,)))
    text = "\n".join(scope.page.lines)
    assert "for start1 in range(0, 40000, 16384):" in text
    assert scope.page.lines[-1].startswith("    sum1 = tl.sum(total1, 2)")
    scope.term(Reduced("max", line, (40000,)))
    assert "\n".join(scope.page.lines).count("tl.load") == 2


def test_what_is_known_of_a_place_is_not_computed() -> None:
    scope = _scope()
    inside = Apply(
        "a < b", (Position(Access((T, 64), (0, 0), 3)), Number(5, "int")), DType.BOOL, "bool"
    )
    x, w = Leaf(X, contiguous((T, 64))), Leaf(W, Access((T, 64), (0, 1)))
    assert scope.term(apply("where(a, b, c)", inside, x, w)).text == "x_tile"
    assert not any("w_tile" in line for line in scope.page.lines)


def test_a_load_happens_only_where_it_may() -> None:
    scope = _scope()
    inside = Apply(
        "a < b", (Position(Access((T, 64), (0, 1))), Number(5, "int")), DType.BOOL, "bool"
    )
    scope.term(Leaf(X, contiguous((T, 64)), holds=inside))
    assert scope.page.lines[-1].endswith(
        "tl.load(x + (row1 * 64 + i1), mask=mask1 & (i1 < 5), other=0.0).to(tl.float32)"
    )


def test_sizes() -> None:
    assert [power_of_two(size) for size in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]
    assert bound_of(64, 64) == bound_of(128, 64) == ""
    assert bound_of(65, 128) == "65"
