from __future__ import annotations

import pytest

from graphopt.codegen.onnx_writer import OnnxWriter, no_form, tensor_type
from graphopt.errors import UnsupportedError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import SourceLocation, Value
from graphopt.ir.shape import dim_max, sym
from graphopt.ir.types import LayerState, StateType, TensorType


def test_equal_constants_are_one() -> None:
    writer = OnnxWriter()
    assert writer.ints(1, 2) == writer.ints(1, 2)
    assert writer.constant(1.0, DType.F32) != writer.constant(1.0, DType.F64)
    assert writer.constant(1, DType.I64) != writer.ints(1)
    assert writer.constant(0.0, DType.F32) != writer.constant(-0.0, DType.F32)
    assert len(writer.constants) == 7


def test_a_size_is_computed_once() -> None:
    writer = OnnxWriter()
    writer.sizes["T"] = "tokens"
    size = 2 * sym("T") + 1
    assert writer.size(size) == writer.size(size)
    assert [node.op_type for node in writer.nodes] == ["Mul", "Add"]
    writer.size(dim_max(sym("T") // 3, 5))
    assert [node.op_type for node in writer.nodes][2:] == ["Div", "Max"]


def test_a_size_that_nothing_tells() -> None:
    writer = OnnxWriter()
    writer.sizes["T"] = "tokens"
    with pytest.raises(UnsupportedError, match="size S") as caught:
        writer.size(sym("S") + 1)
    assert caught.value.expected == "T"


def test_of_several_reshapes_the_last_counts() -> None:
    writer = OnnxWriter()
    first = writer.reshape("x", (2, 3))
    writer.reshape(first, (6,))
    assert [node.input[0] for node in writer.nodes] == ["x", "x"]


def test_names_are_taken_once() -> None:
    writer = OnnxWriter()
    writer.claim("add_0")
    assert writer.fresh("add") != "add_0"
    with pytest.raises(UnsupportedError):
        writer.claim("add_0")


def test_a_node_says_where_it_comes_from() -> None:
    writer = OnnxWriter()
    writer.loc = SourceLocation("model.py", 7, "layers.0")
    writer.op("Neg", "x")
    assert writer.nodes[0].doc_string == "model.py:7 in layers.0"
    assert writer.nodes[0].name.startswith("layers.0/")


def test_states_are_no_tensors() -> None:
    state = Value("kv", StateType("kv", (LayerState(1, 2, 2, DType.F32),)))
    with pytest.raises(UnsupportedError):
        tensor_type(state)
    with pytest.raises(UnsupportedError, match="paged memory"):
        OnnxWriter().name_of(state)


def test_a_refusal_names_operator_and_place() -> None:
    builder = GraphBuilder("g")
    x = builder.input("x", TensorType(DType.F32, (2,)))
    builder.one("neg", [x], loc=SourceLocation("model.py", 3))
    error = no_form(builder.nodes[0], "a reason")
    assert error.what == "operator neg has no form in ONNX: a reason"
    assert error.where == "model.py:3"
