"""Nodes to trees, for a target that keeps nothing."""

from __future__ import annotations

import pytest

from graphopt.codegen.rows.lower import is_dear, type_of
from graphopt.codegen.rows.names import Names
from graphopt.codegen.rows.program import leaf_of
from graphopt.codegen.rows.tree import Apply, Buffer, Leaf, RefusedError, Rows, walk
from graphopt.codegen.triton.expression import TYPES
from graphopt.codegen.triton.rows import TABLE
from graphopt.codegen.triton.tile_lower import TileLowering
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType

from .cases import chain, operation

T = sym("T")
X = TensorType(DType.F32, (T, 8))


def _lowering(graph: Graph) -> TileLowering:
    return TileLowering(
        graph=graph,
        makers={value: node for node in graph.nodes for value in node.outputs},
        rows=Rows("T"),
        operands={v: leaf_of(v, Buffer(v.name, DType.F32)) for v in graph.inputs},
        results={},
        names=Names(graph),
        table=TABLE,
        dtypes=TYPES.keys(),
    )


def test_views_are_views_of_leaves() -> None:
    def make(b, x):  # type: ignore[no-untyped-def]
        return [b.one("neg", [b.one("permute", [b.one("exp", x)], {"dims": (1, 0)})])]

    graph = chain([X], make)
    tree = _lowering(graph).tree(graph.outputs[0])
    (leaf,) = (one for one in walk(tree) if isinstance(one, Leaf))
    assert leaf.access.strides == (1, 8)
    assert isinstance(tree, Apply)


def test_a_value_is_lowered_once() -> None:
    graph = operation("exp", [X])
    lowering = _lowering(graph)
    assert lowering.tree(graph.outputs[0]) is lowering.tree(graph.outputs[0])


def test_refusals() -> None:
    graph = operation("scatter", [X, TensorType(DType.I64, (T, 3)), X], dim=1)
    with pytest.raises(RefusedError, match="no row program computes scatter"):
        _lowering(graph).tree(graph.outputs[0])
    graph = operation("exp", [TensorType(DType.F64, (T, 8))])
    with pytest.raises(RefusedError, match="nothing is computed in f64"):
        _lowering(graph).tree(graph.outputs[0])
    stranger = operation("exp", [X]).outputs[0]
    with pytest.raises(RefusedError, match="not at hand"):
        _lowering(graph).tree(stranger)


def test_state_is_no_tensor() -> None:
    def make(b, x):  # type: ignore[no-untyped-def]
        b.input("kv", StateType("kv", (LayerState(1, 4, 4, DType.F32),)))
        return [b.one("exp", x)]

    graph = chain([X], make)
    with pytest.raises(RefusedError, match="state is read as a tensor"):
        type_of(graph.inputs[-1])


def test_what_is_dear() -> None:
    assert is_dear("exp(a)")
    assert is_dear("a / b")
    assert not is_dear("a * b + c")
    assert not is_dear("cast(a, f32) * b")
