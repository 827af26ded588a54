"""Pointwise operators and reductions of ONNX as operators of the graph.

before:  y = LeakyRelu(x) {alpha = 0.01}
after:   %1 = gt(%x) {scalar = 0.0};  %2 = mul(%x) {scalar = 0.01};  %y = where(%1, %x, %2)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Value
from graphopt.ir.shape import Expr
from graphopt.ir.types import TensorType

from .emitter import type_of
from .onnx_call import Argument, Call, Result, Rule
from .onnx_file import element_type

_UNARY: Mapping[str, str] = {
    "Neg": "neg",
    "Abs": "abs",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Exp": "exp",
    "Log": "log",
    "Sin": "sin",
    "Cos": "cos",
    "Tan": "tan",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Relu": "relu",
    "Erf": "erf",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign",
    "Not": "logical_not",
}
# Functions that PyTorch has and the graph does not, with their arguments after the operand.
_PYTORCH: Mapping[str, str] = {
    "Asin": "asin",
    "Acos": "acos",
    "Atan": "atan",
    "Sinh": "sinh",
    "Cosh": "cosh",
    "Asinh": "asinh",
    "Acosh": "acosh",
    "Atanh": "atanh",
    "BitwiseNot": "bitwise_not",
}
_BINARY: Mapping[str, str] = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Pow": "pow",
    "Equal": "eq",
    "Less": "lt",
    "LessOrEqual": "le",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "ne",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
}
_VARIADIC: Mapping[str, str] = {"Min": "minimum", "Max": "maximum", "Sum": "add", "Mean": "add"}
_SELU = (1.6732632423543772, 1.0507009873554805)


def _unary(call: Call) -> Sequence[Result]:
    return [call.one(_UNARY[call.op], [call.value(0)])]


def _pytorch(call: Call) -> Sequence[Result]:
    return [call.aten(_PYTORCH[call.op], [call.value(0)], call.type(0))]


def two(call: Call, op: str, first: int = 0, second: int = 1) -> Value:
    """A binary operator on two inputs, of which one may be a number.

    Raises:
        Equate: the shapes fit if two sizes are one.
    """
    for index, other, reverse in ((second, first, False), (first, second, True)):
        number = call.scalar(index)
        small = call.rank(index) <= call.rank(other) and call.scalar(other) is None
        if number is not None and small and _fits(number, call.type(other).dtype):
            attrs: dict[str, Attr] = {"scalar": number, "reverse": reverse}
            return call.one(op, [call.value(other)], attrs)
    call.broadcast(call.type(index).shape for index in (first, second))
    return call.one(op, [call.value(first), call.value(second)])


def _fits(number: bool | int | float | Expr, dtype: DType) -> bool:
    """Whether a number can be an operand beside elements of ``dtype``."""
    if dtype is DType.BOOL:
        return isinstance(number, bool)
    return dtype.is_float or not isinstance(number, bool | float)


def _binary(call: Call) -> Sequence[Result]:
    op = _BINARY[call.op]
    if call.op == "Pow" and call.type(0).dtype is not call.type(1).dtype:
        exponent = call.scalar(1)
        if isinstance(exponent, int | float) and float(exponent).is_integer():
            return [call.one("pow", [call.value(0)], {"scalar": exponent})]
        wanted = call.emit.cast(call.value(1), call.type(0).dtype)
        return [call.one("pow", [call.value(0), wanted])]
    return [two(call, op)]


def _div(call: Call) -> Sequence[Result]:
    type_ = call.type(0)
    if type_.dtype.is_float:
        return [two(call, "div")]
    shape = call.broadcast(call.type(index).shape for index in (0, 1))
    operands: list[Argument] = [call.value(0), call.value(1), "trunc"]
    return [call.aten("div.Tensor_mode", operands, TensorType(type_.dtype, shape))]


def _mod(call: Call) -> Sequence[Result]:
    if not call.attr_int("fmod", 0):
        return [two(call, "remainder")]
    shape = call.broadcast(call.type(index).shape for index in (0, 1))
    type_ = TensorType(call.type(0).dtype, shape)
    return [call.aten("fmod.Tensor", [call.value(0), call.value(1)], type_)]


def _variadic(call: Call) -> Sequence[Result]:
    call.broadcast(call.type(index).shape for index in range(call.count))
    op = _VARIADIC[call.op]
    total = reduce(lambda a, b: call.one(op, [a, b]), call.values())
    if call.op == "Mean" and call.count > 1:
        total = call.one("div", [total], {"scalar": float(call.count)})
    return [total]


def _clip(call: Call) -> Sequence[Result]:
    x, dtype = call.value(0), call.type(0).dtype
    for name, index, op in (("min", 1, "maximum"), ("max", 2, "minimum")):
        if not call.has(index):
            continue
        number = call.scalar(index)
        if isinstance(number, int | float):
            bound = float(number) if dtype.is_float else int(number)
            if not (isinstance(bound, float) and math.isinf(bound)):
                x = call.one("clamp", [x], {name: bound})
        else:
            x = call.one(op, [x, call.value(index)])
    return [x]


def _where(call: Call) -> Sequence[Result]:
    call.broadcast(call.type(index).shape for index in range(3))
    return [call.one("where", call.values())]


def _cast(call: Call) -> Sequence[Result]:
    dtype = element_type(call.attr_int("to"), call.where)
    return [call.emit.cast(call.value(0), dtype)]


def _cast_like(call: Call) -> Sequence[Result]:
    return [call.emit.cast(call.value(0), call.type(1).dtype)]


# -- activations ----------------------------------------------------------------------------------


def _bent(call: Call, x: Value, below: Value) -> Value:
    """``x`` where it is positive, else ``below``."""
    return call.one("where", [call.one("gt", [x], {"scalar": 0.0}), x, below])


def _leaky_relu(call: Call) -> Sequence[Result]:
    x = call.value(0)
    return [_bent(call, x, call.one("mul", [x], {"scalar": call.attr_float("alpha", 0.01)}))]


def _prelu(call: Call) -> Sequence[Result]:
    x, slope = call.value(0), call.value(1)
    return [_bent(call, x, call.one("mul", [x, slope]))]


def _elu(call: Call) -> Sequence[Result]:
    alpha = call.attr_float("alpha", 1.0)
    return [call.aten("elu", [call.value(0), alpha, 1.0, 1.0], call.type(0))]


def _celu(call: Call) -> Sequence[Result]:
    return [call.aten("celu", [call.value(0), call.attr_float("alpha", 1.0)], call.type(0))]


def _selu(call: Call) -> Sequence[Result]:
    alpha, scale = call.attr_float("alpha", _SELU[0]), call.attr_float("gamma", _SELU[1])
    return [call.aten("elu", [call.value(0), alpha, scale, 1.0], call.type(0))]


def _thresholded(call: Call) -> Sequence[Result]:
    x = call.value(0)
    above = call.one("gt", [x], {"scalar": call.attr_float("alpha", 1.0)})
    return [call.one("where", [above, x, call.one("mul", [x], {"scalar": 0.0})])]


def _hard_sigmoid(call: Call, x: Value, alpha: float, beta: float) -> Value:
    line = call.one("mul", [x], {"scalar": alpha})
    return call.one("clamp", [call.one("add", [line], {"scalar": beta})], {"min": 0, "max": 1})


def _hard(call: Call) -> Sequence[Result]:
    x = call.value(0)
    if call.op == "HardSigmoid":
        alpha, beta = call.attr_float("alpha", 0.2), call.attr_float("beta", 0.5)
        return [_hard_sigmoid(call, x, alpha, beta)]
    return [call.one("mul", [x, _hard_sigmoid(call, x, 1 / 6, 0.5)])]


def _softplus(call: Call) -> Sequence[Result]:
    return [call.one("softplus", [call.value(0)])]


def _mish(call: Call) -> Sequence[Result]:
    x = call.value(0)
    return [call.one("mul", [x, call.one("tanh", [call.one("softplus", [x])])])]


def _softsign(call: Call) -> Sequence[Result]:
    x = call.value(0)
    return [call.one("div", [x, call.one("add", [call.one("abs", [x])], {"scalar": 1.0})])]


def _gelu(call: Call) -> Sequence[Result]:
    approximate = call.attr_str("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise call.refused(f"approximate is {approximate!r}")
    return [call.one("gelu", [call.value(0)], {"approximate": approximate})]


def _swish(call: Call) -> Sequence[Result]:
    x, alpha = call.value(0), call.attr_float("alpha", 1.0)
    if alpha == 1.0:
        return [call.one("silu", [x])]
    steep = call.one("mul", [x], {"scalar": alpha})
    return [call.one("mul", [x, call.one("sigmoid", [steep])])]


def _is_nan(call: Call) -> Sequence[Result]:
    return [call.one("ne", [call.value(0), call.value(0)])]


def _is_inf(call: Call) -> Sequence[Result]:
    signs = call.attr_int("detect_positive", 1), call.attr_int("detect_negative", 1)
    x = call.value(0)
    if signs == (1, 1):
        return [call.one("eq", [call.one("abs", [x])], {"scalar": math.inf})]
    if signs == (0, 0):
        raise call.refused("it looks for neither infinity")
    return [call.one("eq", [x], {"scalar": math.inf if signs[0] else -math.inf})]


# -- reductions -----------------------------------------------------------------------------------

_Combine = Callable[[Call, Value, dict[str, Attr]], Value]


def _sum_of(op: str | None) -> _Combine:
    def run(call: Call, x: Value, attrs: dict[str, Attr]) -> Value:
        inner = x if op is None else call.one(op, [x])
        return call.emit.cast(call.one("sum", [inner], attrs), type_of(x).dtype)

    return run


def _plain(op: str) -> _Combine:
    def run(call: Call, x: Value, attrs: dict[str, Attr]) -> Value:
        return call.emit.cast(call.one(op, [x], attrs), type_of(x).dtype)

    return run


def _squares(call: Call, x: Value, attrs: dict[str, Attr]) -> Value:
    return _sum_of(None)(call, call.one("mul", [x, x]), attrs)


def _length(call: Call, x: Value, attrs: dict[str, Attr]) -> Value:
    return call.one("sqrt", [_squares(call, x, attrs)])


def _log_sum(call: Call, x: Value, attrs: dict[str, Attr]) -> Value:
    return call.one("log", [call.one("sum", [x], attrs)])


def _log_sum_exp(call: Call, x: Value, attrs: dict[str, Attr]) -> Value:
    peak = call.one("amax", [x], {**attrs, "keepdim": True})
    total = call.one("sum", [call.one("exp", [call.one("sub", [x, peak])])], attrs)
    kept = call.emit.reshape(peak, type_of(total).shape)
    return call.one("add", [call.one("log", [total]), kept])


_REDUCTIONS: Mapping[str, _Combine] = {
    "ReduceSum": _sum_of(None),
    "ReduceL1": _sum_of("abs"),
    "ReduceSumSquare": _squares,
    "ReduceL2": _length,
    "ReduceMean": _plain("mean"),
    "ReduceMax": _plain("amax"),
    "ReduceMin": _plain("amin"),
    "ReduceProd": _plain("prod"),
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
}


def _reduce(call: Call) -> Sequence[Result]:
    x, rank = call.value(0), call.rank(0)
    axes = call.axes(1, rank)
    if not axes:
        if call.attr_int("noop_with_empty_axes", 0):
            return [x]
        axes = tuple(range(rank))
    keep = bool(call.attr_int("keepdims", 1))
    return [_REDUCTIONS[call.op](call, x, {"dims": axes, "keepdim": keep})]


def _arg(call: Call) -> Sequence[Result]:
    if call.attr_int("select_last_index", 0):
        raise call.refused("select_last_index")
    x, axis = call.value(0), call.axis(call.attr_int("axis", 0), call.rank(0))
    if call.op == "ArgMin":
        x = call.one("neg", [x])
    keep = bool(call.attr_int("keepdims", 1))
    return [call.one("argmax", [x], {"dim": axis, "keepdim": keep})]


def _softmax(call: Call) -> Sequence[Result]:
    op = "softmax" if call.op == "Softmax" else "log_softmax"
    axis = call.axis(call.attr_int("axis", -1), call.rank(0))
    return [call.one(op, [call.value(0)], {"dim": axis})]


def _cumsum(call: Call) -> Sequence[Result]:
    x, rank = call.value(0), call.rank(0)
    (axis,) = (call.axis(axis, rank) for axis in call.ints(1))
    backwards = call.attr_int("reverse", 0)
    if backwards:
        x = call.one("flip", [x], {"dims": (axis,)})
    total = call.emit.cast(call.one("cumsum", [x], {"dim": axis}), type_of(x).dtype)
    if call.attr_int("exclusive", 0):
        total = call.one("sub", [total, x])
    return [call.one("flip", [total], {"dims": (axis,)}) if backwards else total]


def _top_k(call: Call) -> Sequence[Result]:
    attrs: dict[str, Attr] = {
        "k": call.ints(1)[0],
        "dim": call.axis(call.attr_int("axis", -1), call.rank(0)),
        "largest": bool(call.attr_int("largest", 1)),
        "sorted": bool(call.attr_int("sorted", 1)),
    }
    return call.emit.node("topk", [call.value(0)], attrs)


POINTWISE: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_PYTORCH, _pytorch),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_VARIADIC, _variadic),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Div": _div,
    "Mod": _mod,
    "Clip": _clip,
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast_like,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "ThresholdedRelu": _thresholded,
    "HardSigmoid": _hard,
    "HardSwish": _hard,
    "Softplus": _softplus,
    "Mish": _mish,
    "Softsign": _softsign,
    "Gelu": _gelu,
    "Swish": _swish,
    "IsNaN": _is_nan,
    "IsInf": _is_inf,
    "ArgMax": _arg,
    "ArgMin": _arg,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "CumSum": _cumsum,
    "TopK": _top_k,
}
