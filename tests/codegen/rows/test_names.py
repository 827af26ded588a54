"""Names of C++ variables: from the model, without its layers, and never taken twice."""

from __future__ import annotations

import pytest

from graphopt.codegen.rows.names import Names
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType

T = sym("T")


def _graph() -> Graph:
    b = GraphBuilder("names")
    x = b.input("sum", TensorType(DType.F32, (T, 8)))
    kv = b.input("kv", StateType("kv", (LayerState(1, 8, 8, DType.F32),)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    weight = b.weight("model.layers.3.mlp.norm.weight", TensorType(DType.F32, (8,)))
    y = b.one("mul", [b.one("exp", [x]), weight])
    rows = b.one("reshape", [y], {"shape": (T, 1, 8)})
    return b.finish([b.one("exp", [y]), b.one("kv_write", [kv, rows, rows, slots], {"layer": 0})])


def test_names() -> None:
    graph = _graph()
    names = Names(graph)
    assert names.of(graph.weights[0]) == "norm_weight"
    assert names.of(graph.inputs[0]) == "sum1"  # the headers have a function called so
    first, product = graph.nodes[0], graph.nodes[1]
    assert names.of(first.output) == "exp1"
    assert names.of(graph.outputs[0]) == "exp2"
    assert names.of(first.output) == "exp1"
    assert names.line(product) == "mul1: f32[T, 8] = mul(exp1, norm_weight)"
    assert names.line(graph.nodes[-1]) == "kv: kv = kv_write(kv, reshape1, reshape1, slots)"


def test_variables() -> None:
    names = Names(_graph())
    assert [names.use("scale"), names.use("scale"), names.use("sum")] == ["scale", "scale1", "sum1"]
    names.release(["scale", "scale1"])
    assert names.use("scale") == "scale"
    assert names.fresh("x", number=False) == "x"
    assert names.fresh("x", number=False) == "x1"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a*/b", "a_b"),
        ("new\nline", "new_line"),
        ("back\\", "back"),
        ("model.ü²", "model"),
        ("²", "value"),
        ("9lives", "v9lives"),
        ("namespace", "namespace1"),
        ("", "value"),
    ],
)
def test_whatever_a_weight_is_called(given: str, name: str) -> None:
    builder = GraphBuilder("odd")
    weight = builder.weight(given, TensorType(DType.F32, (2,)))
    assert Names(builder.finish([])).of(weight) == name
