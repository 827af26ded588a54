from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import IRError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.compare import same_graph
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Operand
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ir.verify import verify
from graphopt.ir.widen import widen, widen_type

from .graphs import random_graph

T = sym("T")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from((DType.F32, DType.F64)))
def test_random_graphs_stay_well_formed(seed: int, dtype: DType) -> None:
    graph = random_graph(seed)
    wide = widen(graph, dtype)
    verify(wide)
    for old, new in zip(graph.values(), wide.values(), strict=True):
        assert (old.name, old.is_weight) == (new.name, new.is_weight)
        assert widen_type(old.type, dtype) == new.type
    assert same_graph(widen(wide, dtype), wide)


def test_types_and_attributes_widen_and_integers_do_not() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, (T, 2)))
    ids = b.input("ids", TensorType(DType.I64, (T,)))
    w = b.weight("w", TensorType(DType.F8E4M3, (2,)))
    y = b.one(
        "mul", [b.one("cast", [x], {"dtype": DType.F16}), b.one("cast", [w], {"dtype": DType.F16})]
    )
    z = b.one(
        "aten._to_copy.default",
        [y],
        {"args": (Operand(0), (DType.BF16, DType.I32))},
        types=[TensorType(DType.BF16, (T, 2))],
    )
    wide = widen(b.finish([z, ids]))
    f32 = TensorType(DType.F32, (T, 2))
    assert [value.type for value in wide.outputs] == [f32, ids.type]
    assert wide.weights[0].type == TensorType(DType.F32, (2,))
    assert wide.nodes[0].attrs == {"dtype": DType.F32}
    assert wide.nodes[3].attrs == {"args": (Operand(0), (DType.F32, DType.I32))}


def test_state_widens_and_wider_types_stay() -> None:
    state = StateType("kv", (LayerState(1, 2, 3, DType.BF16, 9), LayerState(1, 2, 3, DType.F64)))
    assert widen_type(state, DType.F32) == StateType(
        "kv", (LayerState(1, 2, 3, DType.F32, 9), LayerState(1, 2, 3, DType.F64))
    )
    assert widen_type(TensorType(DType.F32, ()), DType.F64) == TensorType(DType.F64, ())


def test_only_to_a_wide_type() -> None:
    with pytest.raises(IRError, match="not a type to widen to"):
        widen(GraphBuilder("g").finish([]), DType.BF16)
