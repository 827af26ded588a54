from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import UnsupportedError
from graphopt.frontend.onnx_pointwise import POINTWISE
from tests.frontend.onnx_models import agree, imported, model, normal

UNARY = (
    "Neg Abs Exp Sin Cos Tan Tanh Sigmoid Relu Erf Floor Ceil Round Sign Atan Sinh Cosh Asinh "
    "Softplus Softsign HardSwish Mish Selu IsNaN ReduceL1 ReduceL2 ReduceSumSquare ReduceMean"
)
BODIES = {
    **{op: f"y = {op}(x)" for op in UNARY.split()},
    "Reciprocal": "y = Reciprocal(p)",
    "Sqrt": "y = Sqrt(p)",
    "Log": "y = Log(p)",
    "Asin": "t = Tanh(x) y = Asin(t)",
    "Acos": "t = Tanh(x) y = Acos(t)",
    "Atanh": "t = Tanh(x) y = Atanh(t)",
    "Acosh": "o = Constant<value_float = 1.5>() t = Add(p, o) y = Acosh(t)",
    "Add": "y = Add(x, r)",
    "Sub": "y = Sub(x, r)",
    "Mul": "y = Mul(x, r)",
    "Div": "y = Div(x, p)",
    "Pow": "y = Pow(p, x)",
    "square": "c = Constant<value_int = 2>() y = Pow(x, c)",
    "number first": "c = Constant<value_float = 2.5>() y = Sub(c, x)",
    "one number in one dimension": "c = Constant<value_floats = [2.5]>() y = Div(x, c)",
    "Min": "y = Min(x, p, r)",
    "Max": "y = Max(x, p, r)",
    "Sum": "y = Sum(x, p)",
    "Mean": "y = Mean(x, p, p)",
    "Less": "y = Less(x, p)",
    "LessOrEqual": "y = LessOrEqual(x, p)",
    "Greater": "y = Greater(x, p)",
    "GreaterOrEqual": "y = GreaterOrEqual(x, p)",
    "Equal": "y = Equal(x, x)",
    "And": "a = Less(x, p) b = Greater(x, r) y = And(a, b)",
    "Or": "a = Less(x, p) b = Greater(x, r) y = Or(a, b)",
    "Xor": "a = Less(x, p) b = Greater(x, r) y = Xor(a, b)",
    "Not": "a = Less(x, p) y = Not(a)",
    "Where": "a = Less(x, p) y = Where(a, x, r)",
    "Cast": "y = Cast<to = 7>(x)",
    "CastLike": "y = CastLike(x, i)",
    "whole quotient": "two = Constant<value_int = -2>() y = Div(i, two)",
    "whole quotient of tensors": "j = Abs(i) o = Sign(p) q = Cast<to = 7>(o) k = ReduceMax(q) "
    "l = Squeeze(k, all) m = Add(j, l) y = Div(i, m)",
    "Mod": "two = Constant<value_int = -3>() y = Mod(i, two)",
    "fmod": "y = Mod<fmod = 1>(x, p)",
    "BitwiseAnd": "two = Constant<value_int = 6>() y = BitwiseAnd(i, two)",
    "BitwiseOr": "two = Constant<value_int = 6>() y = BitwiseOr(i, two)",
    "BitwiseNot": "y = BitwiseNot(i)",
    "Clip": "y = Clip(x, low, high)",
    "Clip on one side": "y = Clip(x, , high)",
    "Clip by a tensor": "b = ReduceMax<keepdims = 0>(r) c = Neg(b) y = Clip(x, c, b)",
    "LeakyRelu": "y = LeakyRelu<alpha = 0.2>(x)",
    "PRelu": "y = PRelu(x, r)",
    "Elu": "y = Elu<alpha = 0.7>(x)",
    "Celu": "y = Celu<alpha = 0.7>(x)",
    "ThresholdedRelu": "y = ThresholdedRelu<alpha = 0.3>(x)",
    "HardSigmoid": "y = HardSigmoid<alpha = 0.3, beta = 0.4>(x)",
    "IsInf": "z = Sub(x, x) w = Div(x, z) y = IsInf<detect_negative = 0>(w)",
    "all infinities": "z = Sub(x, x) w = Div(x, z) y = IsInf(w)",
    "ReduceSum": "y = ReduceSum<keepdims = 0>(x, axes)",
    "ReduceMax": "y = ReduceMax(x, axes)",
    "ReduceMin": "y = ReduceMin(x, axes)",
    "ReduceProd": "y = ReduceProd(x, axes)",
    "ReduceLogSum": "y = ReduceLogSum<keepdims = 0>(p, axes)",
    "ReduceLogSumExp": "y = ReduceLogSumExp<keepdims = 0>(x, axes)",
    "whole sum": "y = ReduceSum(i, axes)",
    "nothing to reduce": "y = ReduceSum<noop_with_empty_axes = 1>(x, none)",
    "ArgMax": "y = ArgMax<axis = 1, keepdims = 0>(x)",
    "ArgMin": "y = ArgMin<axis = -1>(x)",
    "Softmax": "y = Softmax<axis = 0>(x)",
    "LogSoftmax": "y = LogSoftmax(x)",
    "CumSum": "c = Constant<value_int = 1>() y = CumSum(x, c)",
    "CumSum backwards": "c = Constant<value_int = 0>() "
    "y = CumSum<reverse = 1, exclusive = 1>(x, c)",
    "TopK": "k = Constant<value_ints = [2]>() y, z = TopK<axis = 1>(x, k)",
    "TopK least": "k = Constant<value_ints = [2]>() y, z = TopK<largest = 0>(x, k)",
}
MORE = {
    "all": np.array([0, 1, 2]),
    "none": np.zeros(0, np.int64),
    "low": np.float32(-0.5),
    "high": np.float32(0.5),
}
INPUTS = "float[N, 3, 4] x, float[N, 3, 4] p, float[4] r, int64[N, 5] i"


@pytest.mark.parametrize("name", sorted(BODIES))
@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_computes_what_the_standard_says(tmp_path: Path, name: str, batch: int) -> None:
    made = model(INPUTS, BODIES[name], axes=np.array([-1, 0]), **MORE)
    x = normal(batch, 3, 4)
    inputs = {
        "x": x,
        "p": np.abs(x[::-1]) + np.float32(0.1),
        "r": normal(4, seed=1),
        "i": np.arange(5 * batch).reshape(batch, 5) - 7,
    }
    with np.errstate(all="ignore"):
        agree(tmp_path, made, inputs)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(tmp_path: Path, approximate: str) -> None:
    made = model("float[N, 3] x", f'y = Gelu<approximate = "{approximate}">(x)', opset=20)
    agree(tmp_path, made, {"x": normal(4, 3)})


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_swish(tmp_path: Path, alpha: float) -> None:
    made = model("float[N, 3] x", f"y = Swish<alpha = {alpha}>(x)", opset=24)
    agree(tmp_path, made, {"x": normal(4, 3)})


def test_a_number_stays_a_number(tmp_path: Path) -> None:
    made = model("float[N, 3] x", "y = Add(x, eps)", eps=np.float32(1e-5))
    graph = imported(tmp_path, made).graph
    assert graph.weights == ()
    assert graph.nodes[0].attrs["scalar"] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("y = ArgMax<select_last_index = 1>(x)", "select_last_index"),
        ("y = IsInf<detect_positive = 0, detect_negative = 0>(x)", "neither infinity"),
    ],
)
def test_forms_that_are_refused(tmp_path: Path, body: str, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        imported(tmp_path, model("float[N, 3] x", body))


def test_every_rule_is_tried() -> None:
    tried = " ".join(BODIES.values())
    left = [op for op in POINTWISE if f" {op}(" not in tried and f" {op}<" not in tried]
    assert left == ["Gelu", "Swish"]
