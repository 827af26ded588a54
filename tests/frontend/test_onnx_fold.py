from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from tests.frontend.onnx_models import agree, imported, model, normal

N, L = sym("N"), sym("L")
# Each makes a shape ``s`` for the reshape of x[N, L, 6] that follows.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gathered": ("t = Shape(x) a = Gather(t, i) s = Concat<axis = 0>(a, m)", {
        "i": np.array([0, 1]), "m": np.array([2, 3])
    }),
    "sliced": ("t = Shape(x) a = Slice(t, z, b) s = Concat<axis = 0>(a, m)", {
        "z": np.array([0]), "b": np.array([-1]), "m": np.array([-1])
    }),
    "part of a shape": ("a = Shape<end = 1>(x) s = Concat<axis = 0>(a, m)", {"m": np.array([-1])}),
    "computed": (
        "t = Shape(x) a = Gather(t, i) b = Mul(a, two) c = Div(b, two) d = Squeeze(c, z) "
        "e = Unsqueeze(d, z) s = Concat<axis = 0>(e, m)",
        {"i": np.array([1]), "two": np.array(2), "z": np.array([0]), "m": np.array([-1])},
    ),
    "chosen": (
        "t = Shape(x) e = Equal(t, minus) s = Where(e, six, t)",
        {"minus": np.array([-1, -1, -1]), "six": np.array([6, 6, 6])},
    ),
    "multiplied": ("t = Shape(x) p = ReduceProd<keepdims = 1>(t) s = Identity(p)", {}),
    "all elements": ("p = Size(x) s = Unsqueeze(p, z)", {"z": np.array([0])}),
    "split": ("t = Shape(x) a, b, c = Split<num_outputs = 3>(t) s = Concat<axis = 0>(b, a, c)", {}),
    "filled": ("s = ConstantOfShape<value = int64[1] {-1}>(one)", {"one": np.array([1])}),
    "counted": ("r = Range(one, three, one) p = Neg(r) q = Slice(p, z, o) s = Cast<to = 7>(q)", {
        "one": np.array(1), "three": np.array(3), "z": np.array([0]), "o": np.array([1])
    }),
    "turned": ("t = Shape(x) u = Unsqueeze(t, z) v = Transpose<perm = [1, 0]>(u) "
               "w = Reshape(v, m) e = Expand(w, k) s = Max(e, e)", {
        "z": np.array([0]), "m": np.array([3]), "k": np.array([1])
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_are_computed_while_importing(tmp_path: Path, name: str) -> None:
    body, weights = SHAPES[name]
    made = model("float[N, L, 6] x", f"{body} y = Reshape(x, s)", opset=18, **weights)
    function = agree(tmp_path, made, {"x": normal(2, 5, 6)})
    assert {node.op for node in function.graph.nodes} <= {"reshape"}
    assert function.graph.weights == ()


def test_constants(tmp_path: Path) -> None:
    body = """a = Constant<value_floats = [1.0, 2.0]>() b = Constant<value_float = 3.0>()
        c = Constant<value = float[2] {4.0, 5.0}>() d = Constant<value = bool[1] {1}>()
        e = Add(x, a) f = Mul(e, b) g = Add(f, c) y = Where(d, g, x)"""
    agree(tmp_path, model("float[N, 2] x", body), {"x": normal(3, 2)})


def test_what_depends_on_a_size_stays_in_the_graph(tmp_path: Path) -> None:
    body = "t = Shape(x) e = Equal(t, one) y = Cast<to = 1>(e)"
    made = model("float[N, L] x", body, one=np.array([1, 1]))
    for shape in ((1, 3), (2, 1)):
        agree(tmp_path, made, {"x": normal(*shape)})


def test_a_size_may_be_data(tmp_path: Path) -> None:
    body = "t = Shape(x) f = Cast<to = 1>(t) g = Gather(f, i) y = Div(x, g)"
    agree(tmp_path, model("float[N, L] x", body, i=np.array(1)), {"x": normal(2, 5)})


def test_huge_constants_are_not_made_while_importing(tmp_path: Path) -> None:
    body = "c = ConstantOfShape(s) d = Shape(c) e = Gather(d, z) f = Cast<to = 1>(e) y = Add(x, f)"
    weights = {"s": np.array([1 << 40, 1 << 20]), "z": np.array(1)}
    graph = imported(tmp_path, model("float[N] x", body, **weights)).graph
    assert [node.op for node in graph.nodes] == ["add"]
    assert graph.outputs[0].type == TensorType(graph.inputs[0].type.dtype, (N,))  # type: ignore[union-attr]
