from __future__ import annotations

import pytest

from graphopt.errors import TraceError
from graphopt.frontend.emitter import Emitter, type_of
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import sym
from graphopt.ir.types import StateType, TensorType

T = sym("T")


@pytest.fixture
def emit() -> Emitter:
    return Emitter(GraphBuilder("g"))


@pytest.fixture
def x(emit: Emitter) -> Value:
    return emit.builder.input("x", TensorType(DType.F32, (T, 4, 6)))


def ops(emit: Emitter) -> list[str]:
    return [node.op for node in emit.builder.nodes]


def test_what_does_nothing_is_not_emitted(emit: Emitter, x: Value) -> None:
    assert emit.cast(x, DType.F32) is x
    assert emit.reshape(x, (T, 4, 6)) is x
    assert emit.permute(x, (0, 1, 2)) is x
    assert emit.expand(x, (T, 4, 6)) is x
    assert emit.slice(x, 1, 0, 4) is x
    assert emit.concat([x], 1) is x
    assert ops(emit) == []


def test_orders_undo_each_other(emit: Emitter, x: Value) -> None:
    turned = emit.permute(x, (1, 2, 0))
    assert emit.permute(turned, (2, 0, 1)) is x
    again = emit.permute(turned, (1, 0, 2))
    assert type_of(again).shape == (6, 4, T)
    assert emit.maker(again, "permute").inputs == (x,)


def test_shapes_of_shapes_are_one(emit: Emitter, x: Value) -> None:
    flat = emit.reshape(x, (T * 24,))
    assert emit.reshape(flat, (T, 4, 6)) is x
    assert emit.maker(emit.reshape(flat, (T, 24)), "reshape").inputs == (x,)


def test_parts_of_what_was_joined_are_the_parts(emit: Emitter, x: Value) -> None:
    y = emit.one("neg", [x])
    joined = emit.concat([x, y, x], 2)
    assert emit.slice(joined, 2, 6, 12) is y
    pair = emit.slice(joined, 2, 0, 12)
    assert emit.maker(pair, "concat").inputs == (x, y)
    assert emit.maker(emit.slice(joined, 2, 3, 9), "slice").inputs == (joined,)


def test_empty_parts_are_left_out(emit: Emitter, x: Value) -> None:
    empty = emit.slice(x, 2, 3, 3)
    assert emit.concat([empty, x], 2) is x
    assert emit.concat([empty], 2) is empty


def test_a_state_is_no_tensor(emit: Emitter) -> None:
    state = emit.builder.input("kv", StateType("kv", ()))
    with pytest.raises(TraceError, match="state is used as a tensor"):
        type_of(state)
