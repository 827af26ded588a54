"""Layer norms that are written out become one operator; what is not one stays."""

from __future__ import annotations

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.raise_layer_norm import raise_layer_norm
from graphopt.passes.raise_rms_norm import raise_rms_norm

from .numbers import operators, reasons, rewritten, worst

T = sym("T")
BF16, F32 = DType.BF16, DType.F32
KEPT = {"dims": [1], "keepdim": True}
# When weight and bias are applied: before the cast back, after it, or not at all.
FORMS = ("after", "before", "bare")


def norm(
    form: str,
    dtype: DType,
    *,
    bias: bool = True,
    variance: str = "moment",
    root: str = "rsqrt",
    width: int = 7,
) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, (T, width)))

    def cast(value: Value, to: DType) -> Value:
        return value if dtype is F32 else b.one("cast", [value], {"dtype": to})

    def affine(value: Value, type_: DType) -> Value:
        weight = b.weight("w", TensorType(dtype, (width,)))
        value = b.one("mul", [weight if type_ is dtype else cast(weight, F32), value])
        if not bias:
            return value
        added = b.weight("b", TensorType(dtype, (width,)))
        return b.one("add", [value, added if type_ is dtype else cast(added, F32)])

    wide = cast(x, F32)
    centred = b.one("sub", [wide, b.one("mean", [wide], KEPT)])
    if variance == "var":
        moment = b.one("var", [wide], {**KEPT, "correction": 0})
    else:
        moment = b.one("mean", [b.one("pow", [centred], {"scalar": 2.0})], KEPT)
    moment = b.one("add", [moment], {"scalar": 1e-5})
    if root == "rsqrt":
        normed = b.one("mul", [centred, b.one("rsqrt", [moment])])
    else:
        normed = b.one("div", [centred, b.one("sqrt", [moment])])
    if form == "bare":
        return b.finish([cast(normed, dtype)])
    if form == "before":
        return b.finish([affine(cast(normed, dtype), dtype)])
    return b.finish([cast(affine(normed, F32), dtype)])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("variance", "root"), [("moment", "rsqrt"), ("var", "rsqrt"), ("var", "")])
@pytest.mark.parametrize(("dtype", "bound"), [(F32, 1e-6), (BF16, 2**-7)])
def test_every_spelling_is_one_norm(
    form: str, bias: bool, variance: str, root: str, dtype: DType, bound: float
) -> None:
    for width in (7, 31):
        graph = norm(form, dtype, bias=bias, variance=variance, root=root, width=width)
        result, entries = rewritten(graph, raise_layer_norm(), raise_rms_norm())
        (node,) = result.nodes
        assert node.op == "layer_norm"
        weighted = form != "bare"
        assert dict(node.attrs) == {
            "eps": 1e-5,
            "axes": 1,
            "has_weight": weighted,
            "has_bias": weighted and bias,
        }
        assert worst(graph, result) <= bound
        assert not [entry for entry in entries if "no norm" in entry.reason]


def test_a_residual_is_not_a_bias() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(F32, (T, 7)))
    centred = b.one("sub", [x, b.one("mean", [x], KEPT)])
    moment = b.one("mean", [b.one("mul", [centred, centred])], KEPT)
    normed = b.one("mul", [centred, b.one("rsqrt", [b.one("add", [moment], {"scalar": 1e-5})])])
    scaled = b.one("mul", [normed, b.weight("w", TensorType(F32, (7,)))])
    graph = b.finish([b.one("add", [scaled, x])])
    result, entries = rewritten(graph, raise_layer_norm())
    assert operators(result) == ["layer_norm", "add"]
    assert "bias is f32[T, 7], not a row of" in reasons(entries)
    assert worst(graph, result) <= 1e-6


def wrong(kind: str) -> Graph:
    b = GraphBuilder("g")
    x, y = (b.input(name, TensorType(F32, (5, 5))) for name in "xy")
    shift = dict(KEPT)
    if kind == "mean of columns":
        shift["dims"] = [0]
    if kind == "no keepdim":
        shift["keepdim"] = False
    less = b.one("amax" if kind == "less the greatest" else "mean", [x], shift)
    operands = [less, x] if kind == "the other way" else [x, less]
    centred = b.one("sub", operands)
    if kind == "correction":
        moment = b.one("var", [x], {**KEPT, "correction": 1})
    elif kind == "variance of another":
        moment = b.one("var", [y], {**KEPT, "correction": 0})
    elif kind == "not centred":
        moment = b.one("mean", [b.one("mul", [x, x])], KEPT)
    else:
        moment = b.one("mean", [b.one("mul", [centred, centred])], KEPT)
    moment = b.one("add", [moment], {"scalar": 1e-5})
    return b.finish([b.one("mul", [centred, b.one("rsqrt", [moment])])])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("mean of columns", "dims = (1,), not (0,)"),
        ("no keepdim", "keepdim = True, not False"),
        ("less the greatest", ""),
        ("the other way", ""),
        ("correction", "correction = 1, not 0"),
        ("variance of another", "x is %x elsewhere, not %y"),
        ("not centred", ""),
    ],
)
def test_what_only_looks_like_a_layer_norm_is_left_alone(kind: str, reason: str) -> None:
    graph = wrong(kind)
    result, entries = rewritten(graph, raise_layer_norm())
    assert result is graph
    assert reason in reasons(entries)


def test_without_this_pass_a_centred_value_is_normalized_like_any_other() -> None:
    graph = norm("after", BF16)
    result, _ = rewritten(graph, raise_rms_norm())
    assert "rms_norm" in operators(result)
    assert worst(graph, result) == 0.0
