from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from graphopt.errors import UnsupportedError
from graphopt.frontend.emitter import Emitter
from graphopt.frontend.onnx_call import Call, Equate, Scope, location_of
from graphopt.frontend.onnx_known import Known
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

N = sym("N")


def call(op: str = "Op", inputs: tuple[str, ...] = ("x", "k"), **attrs: Any) -> Call:
    builder = GraphBuilder("g")
    scope = Scope(Emitter(builder), {})
    scope.define("x", builder.input("x", TensorType(DType.F32, (N, 3))))
    scope.define("k", Known.of([1, 2], DType.I64))
    scope.define("s", Known.of([N, 2], DType.I64))
    scope.define("one", Known.of([5], DType.I64))
    return Call(helper.make_node(op, inputs, ["y"], name="node/op", **attrs), scope, 18)


def test_known_elements_become_values_when_they_are_needed() -> None:
    scope = call().scope
    assert scope.value("k").is_weight
    assert isinstance(scope.constants["k"], Known)
    sizes = scope.value("s")
    assert [node.op for node in scope.emit.builder.nodes] == ["full", "full", "concat"]
    assert sizes is scope.value("s")
    assert scope.value("one").type == TensorType(DType.I64, (1,))
    assert scope.emit.builder.nodes[-1].op == "full"


def test_zeros_of_two_signs_are_two_numbers() -> None:
    scope = call().scope
    scope.define("z", Known.of([0.0, -0.0], DType.F32))
    assert scope.value("z").is_weight


def test_inputs() -> None:
    one = call(inputs=("x", "k", "", "s"))
    assert [one.has(i) for i in range(5)] == [True, True, False, True, False]
    assert one.dims(1) == (1, 2)
    assert one.dims(3) == (N, 2)
    assert one.type(3) == TensorType(DType.I64, (2,))
    assert one.scalar(0) is None
    for index, why in ((0, "not known before"), (3, "depends on a size")):
        with pytest.raises(UnsupportedError, match=why):
            one.ints(index)
    with pytest.raises(UnsupportedError, match="input 2 is missing"):
        one.value(2)


def test_attributes() -> None:
    one = call(a=3, f=1e-5, s="text", i=[1, -1])
    assert (one.attr_int("a"), one.attr_int("b", 7), one.attr_str("s")) == (3, 7, "text")
    assert one.attr_float("f") == 1e-5
    assert one.attr_ints("i") == (1, -1)
    assert one.attr_ints("none") is None
    with pytest.raises(UnsupportedError, match="attribute b is missing"):
        one.attr_int("b")


def test_axes() -> None:
    assert call(axes=[-1, 0]).axes(1, 3) == (2, 0)
    assert call().axes(1, 3) == (1, 2)
    assert call(inputs=("x",)).axes(1, 3) is None
    with pytest.raises(UnsupportedError, match="axis 5"):
        call().axis(5, 2)


def test_shapes_that_fit_if_two_sizes_are_one() -> None:
    assert call().broadcast([(N, 1), (3,), (1, 1, 3)]) == (1, N, 3)
    with pytest.raises(Equate) as caught:
        call().broadcast([(N,), (sym("M"),)])
    assert {str(caught.value.first), str(caught.value.second)} == {"N", "M"}


def test_operators_of_pytorch() -> None:
    one = call()
    x = one.value(0)
    made = one.aten("stack", [(x, x), 0], TensorType(DType.F32, (2, N, 3)))
    node = one.emit.builder.nodes[-1]
    assert str(node.attrs["args"][0][1]) == "$1"  # type: ignore[index]
    assert node.output is made


def test_a_refusal_names_the_node() -> None:
    error = call("Strange").refused("a reason")
    assert error.what == "operator Strange of the model is not supported: a reason"
    assert error.where == "node node/op"
    assert error.got == "Strange(x, k)"


@pytest.mark.parametrize(
    ("name", "doc", "text"),
    [
        ("/a/b/Add_1", "", "in a.b"),
        ("Add_1", "", "in Add_1"),
        ("n", "model.py:12 in layers.0", "model.py:12 in layers.0"),
        ("n", "see: 12 pages", "in n"),
    ],
)
def test_where_a_node_comes_from(name: str, doc: str, text: str) -> None:
    node = helper.make_node("Add", ["x"], ["y"], name=name, doc_string=doc)
    assert str(location_of(node)) == text


def test_a_node_from_nowhere() -> None:
    assert location_of(helper.make_node("Add", ["x"], ["y"])) is None
    assert np.size(call().floats(0)) == 0
