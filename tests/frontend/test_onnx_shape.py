from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.errors import UnsupportedError
from graphopt.frontend.onnx_shape import SHAPE
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from tests.frontend.onnx_models import agree, imported, model, normal

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Identity": ("y = Identity(x)", {}),
    "Dropout": ("y, z = Dropout(x)", {}),
    "Reshape": ("y = Reshape(x, s)", {"s": np.array([0, -1, 2])}),
    "Reshape by its own shape": (
        "s = Shape(x) a = Gather(s, zero) b = Unsqueeze(a, at) m = Constant<value_ints = [12]>() "
        "t = Concat<axis = 0>(b, m) y = Reshape(x, t)",
        {"zero": np.array(0), "at": np.array([0])},
    ),
    "Flatten": ("y = Flatten(x)", {}),
    "Flatten from the end": ("y = Flatten<axis = -1>(x)", {}),
    "Squeeze": ("u = Unsqueeze(x, a) y = Squeeze(u, a)", {"a": np.array([1, -1])}),
    "Squeeze everything": ("u = Unsqueeze(r, a) y = Squeeze(u)", {"a": np.array([0, 2])}),
    "Transpose": ("y = Transpose<perm = [2, 0, 1]>(x)", {}),
    "Transpose all": ("y = Transpose(x)", {}),
    "Expand": ("y = Expand(r, s)", {"s": np.array([2, 3, 1])}),
    "Expand to a size": ("s = Shape(x) y = Expand(r, s)", {}),
    "Tile": ("y = Tile(x, s)", {"s": np.array([2, 1, 3])}),
    "Slice": ("y = Slice(x, a, b, ax, st)", {
        "a": np.array([1, -3]), "b": np.array([3, 1 << 62]), "ax": np.array([1, 2]),
        "st": np.array([1, 2]),
    }),
    "Slice to the end": ("y = Slice(x, a, b)", {"a": np.array([0]), "b": np.array([1 << 62])}),
    "Slice from the end": ("y = Slice(x, a, b)", {"a": np.array([-1]), "b": np.array([1 << 62])}),
    "Slice beyond the end": ("y = Slice(x, a, b)", {"a": np.array([0]), "b": np.array([2])}),
    "Slice backwards": ("y = Slice(x, a, b, ax, st)", {
        "a": np.array([-1]), "b": np.array([-(1 << 62)]), "ax": np.array([2]), "st": np.array([-1]),
    }),
    "Slice backwards within": ("y = Slice(x, a, b, ax, st)", {
        "a": np.array([2]), "b": np.array([-4]), "ax": np.array([2]), "st": np.array([-2]),
    }),
    "Concat": ("y = Concat<axis = -1>(x, x)", {}),
    "Split": ("y, z = Split<axis = 2>(x, s)", {"s": np.array([1, 3])}),
    "Split evenly": ("y, z = Split<axis = 1, num_outputs = 2>(x)", {}),
    "Gather": ("y = Gather<axis = 1>(x, s)", {"s": np.array([[2, 0], [-1, 1]])}),
    "Gather one": ("y = Gather<axis = 2>(x, s)", {"s": np.array(-1)}),
    "Gather by data": ("y = Gather(w, i)", {"w": normal(12, 3)}),
    "Gather by data from the end": ("m = Neg(i) y = Gather<axis = 1>(w, m)", {
        "w": normal(2, 12, 3)
    }),
    "GatherElements": ("j = ArgMax<axis = 2>(x) y = GatherElements<axis = 2>(x, j)", {}),
    "GatherND": ("y = GatherND(x, s)", {"s": np.array([[0, 1], [0, -1]])}),
    "ScatterND": ("y = ScatterND(w, s, v)", {
        "w": normal(4, 3), "s": np.array([[1], [-1]]), "v": normal(2, 3)
    }),
    "ScatterElements": ("y = ScatterElements<axis = 1>(w, s, v)", {
        "w": normal(2, 5), "s": np.array([[1, -1], [0, 2]]), "v": normal(2, 2)
    }),
    "Pad": ("y = Pad(x, s, v)", {"s": np.array([0, 1, 2, 0, 0, 3]), "v": np.float32(2.0)}),
    "Pad two axes": ("y = Pad(x, s, , ax)", {"s": np.array([1, 2]), "ax": np.array([-1])}),
    "Pad by reflection": ('y = Pad<mode = "reflect">(x, s)', {"s": np.array([0, 0, 1, 0, 0, 2])}),
    "Range": ("s = Size(i) y = Range(zero, s, one)", {"zero": np.array(0), "one": np.array(1)}),
    "ConstantOfShape": ("s = Shape(x) y = ConstantOfShape(s)", {}),
    "Trilu": ("y = Trilu<upper = 0>(x, k)", {"k": np.array(1)}),
    "OneHot": ("y = OneHot<axis = 1>(i, d, v)", {"d": np.array(13), "v": np.array([-1.0, 2.0])}),
    "DepthToSpace": ("y = DepthToSpace<blocksize = 2>(c)", {"c": normal(1, 8, 2, 3)}),
    "DepthToSpace by column": ('y = DepthToSpace<blocksize = 2, mode = "CRD">(c)', {
        "c": normal(1, 8, 2, 3)
    }),
    "SpaceToDepth": ("y = SpaceToDepth<blocksize = 2>(c)", {"c": normal(1, 2, 4, 6)}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(BODIES))
@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_computes_what_the_standard_says(tmp_path: Path, name: str, batch: int) -> None:
    body, weights = BODIES[name]
    outputs = "y z" if body.startswith("y, z") else "y"
    made = model("float[N, 3, 4] x, float[4] r, int64[N, 2] i", body, outputs, **weights)
    ids = np.arange(2 * batch).reshape(batch, 2) % 12
    agree(tmp_path, made, {"x": normal(batch, 3, 4), "r": normal(4, seed=1), "i": ids})


def test_every_rule_is_tried() -> None:
    tried = " ".join(body for body, _ in BODIES.values())
    assert not [op for op in SHAPE if f" {op}(" not in tried and f" {op}<" not in tried]


def test_shapes_are_told_by_expressions(tmp_path: Path) -> None:
    made = model("float[N, L] x", "y = Concat<axis = 1>(x, x)")
    assert imported(tmp_path, made).graph.outputs[0].type == TensorType(
        imported(tmp_path, made).graph.inputs[0].type.dtype,  # type: ignore[union-attr]
        (sym("N"), 2 * sym("L")),
    )


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("q = Cast<to = 7>(r) y = Reshape(x, q)", "not known before the model runs"),
        ("y = Reshape(x, s)", "cannot be told"),
        ("y = Reshape(x, t)", "is to be kept"),
        ('y = Pad<mode = "odd">(x, p)', "mode 'odd'"),
        ("b = Constant<value_int = 1>() c = Cast<to = 9>(b) y, z = Dropout(x, r, c)", "at random"),
        ('y = ScatterElements<reduction = "add">(x, i, x)', "combines"),
        ('y = ScatterND<reduction = "mul">(x, i, x)', "combines"),
        ("y = GatherND<batch_dims = 1>(x, i)", "batch_dims"),
        ("y = Concat<axis = 7>(x, x)", "axis 7"),
        ("y = Squeeze(x)", "which dimensions have size 1"),
        ("z = ReduceMax<keepdims = 0>(r) y = Range(z, z, z)", "depends on data"),
    ],
)
def test_forms_that_are_refused(tmp_path: Path, body: str, why: str) -> None:
    weights = {
        "s": np.array([-1, -1]),
        "t": np.array([1, 1, 1, 1, 0]),
        "p": np.zeros(6, np.int64),
        "i": np.zeros((1, 1, 1), np.int64),
    }
    used = {
        name: array for name, array in weights.items() if f"{name})" in body or f" {name}," in body
    }
    with pytest.raises(UnsupportedError, match=why):
        imported(tmp_path, model("float[N, 3, 4] x, float[4] r", body, **used))
