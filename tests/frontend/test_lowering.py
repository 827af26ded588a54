from __future__ import annotations

import pytest
import torch

from graphopt.errors import TraceError, UnsupportedError
from graphopt.frontend.emitter import Emitter
from graphopt.frontend.lowering import Call, NotLowered, dtype_named, fixed
from graphopt.frontend.sizes import Sizes
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType


@pytest.fixture
def call() -> Call:
    emit = Emitter(GraphBuilder("g"))
    x = emit.builder.input("x", TensorType(DType.F32, (2, 3, 4)))
    fake = torch.empty(2, 3, 4, device="meta")
    arguments = {"self": x, "dim": -1, "dims": [2, 0], "other": 3, "tensors": [x, x], "p": None}
    fakes = {"self": fake, "other": 3}
    return Call("aten.odd.Tensor", emit, Sizes({}), arguments, fakes, fake)


def test_arguments_are_found_by_name(call: Call) -> None:
    assert call.value("self").name == "x"
    assert len(call.values("tensors")) == 2
    assert call.number("other") == 3
    assert call.number("missing", 1.5) == 1.5
    assert call.axis() == 2
    assert call.axes("dims") == (0, 2)
    assert call.axes("missing") == (0, 1, 2)
    assert call.get("p", 7) == 7
    assert not call.has("p")
    assert (call.shape, call.dtype) == ((2, 3, 4), DType.F32)
    assert call.promoted("self", "other") is DType.F32


@pytest.mark.parametrize(
    "ask",
    [
        lambda call: call.value("other"),
        lambda call: call.values("self"),
        lambda call: call.number("self"),
        lambda call: call.axis("missing"),
    ],
)
def test_arguments_of_another_kind_are_not_lowered(call: Call, ask) -> None:
    with pytest.raises(NotLowered):
        ask(call)


def test_element_types() -> None:
    assert dtype_named(torch.bfloat16) is DType.BF16
    with pytest.raises(NotLowered, match="complex"):
        dtype_named(torch.complex64)
    with pytest.raises(UnsupportedError):
        dtype_named(torch.qint8)


def test_a_number_that_must_not_depend_on_tokens() -> None:
    assert fixed(3, "a step") == 3
    with pytest.raises(TraceError, match="a step depends on the number of tokens"):
        fixed(sym("T"), "a step")
