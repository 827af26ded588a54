"""Operands in order, state as two pointers, then results that are no state."""

from __future__ import annotations

from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType

from .cases import chain, whole

T = sym("T")


def test_order() -> None:
    state = StateType("kv", (LayerState(1, 4, 4, DType.BF16),))

    def make(b, given):  # type: ignore[no-untyped-def]
        x, slots = given
        kv = b.input("kv", state)
        y = b.one("exp", [x])
        return [y, b.one("kv_write", [kv, y, y, slots], {"layer": 0})]

    graph = chain([TensorType(DType.BF16, (T, 1, 4)), TensorType(DType.I64, (T,))], make)
    region = whole(graph)
    found = [(one.value.name, one.kind, one.index) for one in arguments(graph, region)]
    assert found == [
        ("x0", Kind.OPERAND, 0),
        ("kv", Kind.KEYS, 1),
        ("kv", Kind.VALUES, 2),
        ("x1", Kind.OPERAND, 3),
        (graph.outputs[0].name, Kind.RESULT, 4),
    ]
    assert [one.dtype for one in arguments(graph, region)][:2] == [DType.BF16, None]
