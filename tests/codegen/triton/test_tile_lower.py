"""Stores of a region: parts of what is put together, writes of state, nothing kept between."""

from __future__ import annotations

from graphopt.codegen.rows.access import contiguous
from graphopt.codegen.rows.names import Names
from graphopt.codegen.rows.program import leaf_of
from graphopt.codegen.rows.tree import Apply, Buffer, Leaf, Rows, walk
from graphopt.codegen.triton.expression import TYPES
from graphopt.codegen.triton.rows import TABLE
from graphopt.codegen.triton.tile_lower import Store, TileLowering
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from ..rows.cases import chain, operation

T = sym("T")
X = TensorType(DType.F32, (T, 1, 8))


def _stores(graph: Graph) -> list[Store]:
    operands = (*graph.inputs, *graph.weights)
    lowering = TileLowering(
        graph=graph,
        makers={value: node for node in graph.nodes for value in node.outputs},
        rows=Rows("T"),
        operands={v: leaf_of(v, Buffer(v.name, DType.F32)) for v in operands},
        results={v: leaf_of(v, Buffer(f"y{i}", DType.F32)) for i, v in enumerate(graph.outputs)},
        names=Names(graph),
        table=TABLE,
        dtypes=TYPES.keys(),
    )
    lowering.finish()
    return lowering.stores


def test_a_chain_is_one_tree() -> None:
    (store,) = _stores(chain([X], lambda b, x: [b.one("neg", [b.one("exp", x)])]))
    assert isinstance(store.tree, Apply)
    assert store.target.access == contiguous((T, 8))  # without the dimension of size 1
    assert sum(isinstance(one, Leaf) for one in walk(store.tree)) == 1


def test_what_is_put_together_is_stored_part_by_part() -> None:
    stores = _stores(operation("concat", [X, X], dim=2))
    assert [store.target.access.offset for store in stores] == [0, 8]
    assert [store.target.access.strides for store in stores] == [(16, 1)] * 2


def test_what_is_put_together_and_computed_with_is_one_tree() -> None:
    def make(b, x):  # type: ignore[no-untyped-def]
        return [b.one("exp", [b.one("concat", [x[0], x[0]], {"dim": 2})])]

    (store,) = _stores(chain([X], make))
    leaves = [one for one in walk(store.tree) if isinstance(one, Leaf)]
    assert len(leaves) == 2
    assert all(leaf.holds is not None for leaf in leaves)
