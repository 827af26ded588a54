from __future__ import annotations

import pytest
import torch

from graphopt.errors import UnsupportedError, VerifyError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node, Operand, SourceLocation, Value
from graphopt.ir.reference import prepare
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from .run import run

T = sym("T")
X = torch.arange(6.0).view(2, 3)
F = TensorType(DType.F32, (2, 3))


def test_positional_arguments() -> None:
    found = run("aten.add.Tensor", X, X, types=[F], args=(Operand(0), Operand(1)))
    assert torch.equal(found, X + X)
    scaled = run("aten.add.Tensor", X, X, types=[F], args=(Operand(0), Operand(1), 3))
    assert torch.equal(scaled, X + 3 * X)


def test_an_operator_without_overload_is_its_default() -> None:
    assert torch.equal(run("aten.neg", X, types=[F], args=(Operand(0),)), -X)


def test_lists_with_holes() -> None:
    index = torch.tensor([2, 0])
    found = run(
        "aten.index.Tensor",
        X,
        index,
        types=[TensorType(DType.F32, (2, 2))],
        args=(Operand(0), (None, Operand(1))),
    )
    assert torch.equal(found, X[:, index])


def test_keyword_only_arguments_follow_in_the_schemas_order() -> None:
    found = run(
        "aten.arange.start_step",
        types=[TensorType(DType.F32, (T,))],
        env={"T": 3},
        args=(0, T, 1, DType.F32, "strided", "cpu", False),
    )
    assert torch.equal(found, torch.arange(3.0))
    found = run(
        "aten.empty_like.default",
        X,
        types=[F],
        args=(Operand(0), None, None, None, None, "contiguous_format"),
    )
    assert found.shape == (2, 3)


def test_sizes_are_those_of_the_step() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(DType.F32, (T, 4)))
    attrs = {"args": (Operand(0), (T, 2, -1))}
    builder.node("aten.view.default", [x], attrs, types=[TensorType(DType.F32, (T, 2, 2))])
    (found,) = prepare(builder.nodes[0])([torch.ones(5, 4)], {"T": 5})
    assert found.shape == (5, 2, 2)


def test_several_outputs() -> None:
    part = TensorType(DType.F32, (2, 1))
    first, second, third = run("aten.split.Tensor", X, types=[part] * 3, args=(Operand(0), 1, 1))
    assert torch.equal(torch.cat((first, second, third), 1), X)
    values, positions = run(
        "aten.max.dim",
        X,
        types=[TensorType(DType.F32, (2,)), TensorType(DType.I64, (2,))],
        args=(Operand(0), 1),
    )
    assert (values.tolist(), positions.tolist()) == ([2.0, 5.0], [2, 2])


def test_floats_come_out_in_the_recorded_type() -> None:
    wide = TensorType(DType.F64, (3,))
    found = run("aten.arange.default", types=[wide], args=(3, DType.F32))
    assert found.dtype == torch.float64


def node(op: str, *args: object) -> Node:
    loc = SourceLocation("modeling.py", 3)
    outputs = (Value("0", F),)
    return Node(op, (Value("x", F),), outputs, {"args": (Operand(0), *args)}, loc)  # type: ignore[dict-item]


@pytest.mark.parametrize("op", ["aten.frobnicate", "aten.add.Frobnicate"])
def test_operators_that_pytorch_does_not_have(op: str) -> None:
    with pytest.raises(UnsupportedError, match=op) as caught:
        prepare(node(op))
    assert caught.value.where == "modeling.py:3"


def test_writing_in_place_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="in place"):
        prepare(node("aten.add_.Tensor", 1))


def test_too_many_arguments() -> None:
    with pytest.raises(VerifyError, match="does not fit the schema") as caught:
        prepare(node("aten.neg.default", 1, 2, 3))
    assert "aten::neg" in str(caught.value)
