"""Operands of products: strides along batch, rows and columns, and what walks evenly."""

from __future__ import annotations

from graphopt.codegen.rows.product import even_groups, product_operand, product_sizes
from graphopt.codegen.rows.views import view_of
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.region import make_region

T = sym("T")


def test_operands_are_matrices_of_the_whole_batch() -> None:
    b = GraphBuilder("heads")
    x = b.input("x", TensorType(DType.F32, (T, 3, 21)))
    turned = b.one("permute", [x], {"dims": (1, 0, 2)})
    w = b.weight("w", TensorType(DType.F32, (21, 5)))
    graph = b.finish([b.one("matmul", [turned, w])])
    region, node = make_region(graph, range(2), family="matmul"), graph.nodes[1]
    sizes = product_sizes(node)
    assert (sizes.batch, sizes.rows, sizes.columns, sizes.depth) == ((3,), T, 5, 21)
    views = [view_of(graph, region, value) for value in node.inputs]
    found = [
        (one.batch, one.row, one.column)
        for place, view in enumerate(views)
        if view and (one := product_operand(view, place, sizes))
    ]
    assert found == [((21,), 63, 1), ((0,), 5, 1)]


def test_a_vector_is_a_row_or_a_column() -> None:
    b = GraphBuilder("vectors")
    x = b.input("x", TensorType(DType.F32, (7,)))
    graph = b.finish([b.one("matmul", [x, b.input("y", TensorType(DType.F32, (7,)))])])
    region, node = make_region(graph, [0], family="matmul"), graph.nodes[0]
    sizes = product_sizes(node)
    assert (sizes.batch, sizes.rows, sizes.columns, sizes.depth) == ((), 1, 1, 7)
    left, right = (view_of(graph, region, value) for value in node.inputs)
    assert left
    assert right
    assert product_operand(left, 0, sizes).column == 1
    assert product_operand(right, 1, sizes).row == 1


def test_what_is_walked_through_evenly_is_one_group() -> None:
    assert even_groups((2, 3, 4), (12, 4, 1)) == [(24, 1)]
    assert even_groups((2, 3, 4), (24, 4, 1)) == [(2, 24), (12, 1)]
    assert even_groups((2, 1, 4), (0, 9, 1)) == [(2, 0), (4, 1)]
