"""Pointwise operators and reductions as ONNX nodes.

before:  %2: f32[T, 8] = silu(%1)
after:   sigmoid_0 = Sigmoid(v1); mul_1 = Mul(v1, sigmoid_0)

ONNX defines most operators on some element types only; what it lacks is computed in a type that it
has and that holds the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import (
    bool_of,
    bound_of,
    dtype_of,
    float_of,
    int_of,
    ints_of,
    scalar_of,
    str_of,
)
from graphopt.ir.shape import product

from .onnx_writer import OnnxWriter, tensor_type

Rule = Callable[[OnnxWriter, Node], Sequence[str]]

_UNARY: Mapping[str, str] = {
    "neg": "Neg",
    "abs": "Abs",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "exp": "Exp",
    "log": "Log",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "erf": "Erf",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "sign": "Sign",
}
_BINARY: Mapping[str, str] = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "eq": "Equal",
    "bitwise_and": "BitwiseAnd",
    "bitwise_or": "BitwiseOr",
    "logical_and": "And",
    "logical_or": "Or",
}
# The same on truth values.
_LOGICAL: Mapping[str, str] = {
    "add": "Or",
    "mul": "And",
    "maximum": "Or",
    "minimum": "And",
    "bitwise_and": "And",
    "bitwise_or": "Or",
}
# A number beside a narrow tensor is not rounded to the tensor's type first.
_ROUNDED_ONCE = frozenset({"add", "sub", "mul", "div", "pow"})
_NARROW = frozenset({DType.BF16, DType.F16})
_ORDER = frozenset({"lt", "le", "gt", "ge"})
# Operators that change nothing in a whole number, or in one without a sign.
_WHOLE_ALREADY = frozenset({"floor", "ceil", "round"})
_POSITIVE_ALREADY = frozenset({"abs", "relu"})
_QUICK_GELU = 1.702


def _unary(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, dtype = w.name_of(node.inputs[0]), tensor_type(node.inputs[0]).dtype
    if dtype.is_int and node.op in _WHOLE_ALREADY:
        return [x]
    if dtype is DType.U8:
        if node.op in _POSITIVE_ALREADY:
            return [x]
        if node.op == "neg":
            return [w.op("Sub", w.constant(0, dtype), x)]
    return [w.op(_UNARY[node.op], x)]


def operands(w: OnnxWriter, node: Node) -> tuple[str, str, DType]:
    """The two operands of a binary operator, of which one may be a number, and their type."""
    dtype = tensor_type(node.inputs[0]).dtype
    first = w.name_of(node.inputs[0])
    if len(node.inputs) == 2:
        return first, w.name_of(node.inputs[1]), dtype
    second = w.scalar(scalar_of(node.attrs, "scalar"), dtype)
    return (second, first, dtype) if bool_of(node.attrs, "reverse") else (first, second, dtype)


def _binary(w: OnnxWriter, node: Node) -> Sequence[str]:
    scalar, dtype = node.attrs.get("scalar"), tensor_type(node.inputs[0]).dtype
    exact = dtype in _NARROW and node.op in _ROUNDED_ONCE and not node.attrs.get("reverse")
    if isinstance(scalar, float) and exact:
        x, wide = w.cast(w.name_of(node.inputs[0]), DType.F32), w.scalar(scalar, DType.F32)
        return [w.cast(w.op(_BINARY[node.op], x, wide), dtype)]
    a, b, dtype = operands(w, node)
    op_type = _BINARY["eq" if node.op == "ne" else node.op]
    if dtype is DType.BOOL:
        op_type = _LOGICAL.get(node.op, op_type)
        if node.op in _ORDER:
            a, b = w.cast(a, DType.U8), w.cast(b, DType.U8)
    elif node.op.startswith("logical"):
        a, b = w.cast(a, DType.BOOL), w.cast(b, DType.BOOL)
    result = w.op(op_type, a, b)
    return [w.op("Not", result) if node.op == "ne" else result]


def _pow(w: OnnxWriter, node: Node) -> Sequence[str]:
    dtype = tensor_type(node.inputs[0]).dtype
    if dtype.is_float or dtype.nbytes >= DType.I32.nbytes:
        return _binary(w, node)
    a, b, _ = operands(w, node)
    return [w.cast(w.op("Pow", w.cast(a, DType.I32), w.cast(b, DType.I32)), dtype)]


def _logical_not(w: OnnxWriter, node: Node) -> Sequence[str]:
    x = node.inputs[0]
    return [w.op("Not", w.cast(w.name_of(x), DType.BOOL, tensor_type(x).dtype))]


def remainder(w: OnnxWriter, a: str, b: str, dtype: DType) -> str:
    """What division leaves, with the sign of the divisor."""
    if not dtype.is_float:
        return w.op("Mod", a, b)
    zero = w.constant(0.0, dtype)
    rest = w.op("Mod", a, b, fmod=1)
    differ = w.op("Xor", w.op("Less", rest, zero), w.op("Less", b, zero))
    wrong = w.op("And", differ, w.op("Not", w.op("Equal", rest, zero)))
    return w.op("Where", wrong, w.op("Add", rest, b), rest)


def _remainder(w: OnnxWriter, node: Node) -> Sequence[str]:
    return [remainder(w, *operands(w, node))]


def _floor_div(w: OnnxWriter, node: Node) -> Sequence[str]:
    a, b, dtype = operands(w, node)
    exact = w.op("Div", w.op("Sub", a, remainder(w, a, b, dtype)), b)
    if not dtype.is_float:
        return [exact]
    # What is left of the quotient's fraction is rounding; by zero there is no remainder to take.
    by_zero = w.op("Equal", b, w.constant(0.0, dtype))
    return [w.op("Where", by_zero, w.op("Div", a, b), w.op("Round", exact))]


def _rsqrt(w: OnnxWriter, node: Node) -> Sequence[str]:
    return [w.op("Reciprocal", w.op("Sqrt", w.name_of(node.inputs[0])))]


def silu(w: OnnxWriter, x: str) -> str:
    """Each element times its sigmoid."""
    return w.op("Mul", x, w.op("Sigmoid", x))


def gelu(w: OnnxWriter, x: str, dtype: DType, approximate: str) -> str:
    """One of the forms of GELU."""
    if approximate == "sigmoid":
        inner = w.op("Sigmoid", w.op("Mul", x, w.constant(_QUICK_GELU, dtype)))
        return w.op("Mul", x, inner)
    return w.op("Gelu", x, approximate=approximate)


def activation(w: OnnxWriter, x: str, name: str, dtype: DType) -> str:
    """One of ``ops_pointwise.ACTIVATIONS``."""
    match name:
        case "identity":
            return x
        case "silu":
            return silu(w, x)
        case "gelu":
            return gelu(w, x, dtype, "none")
        case "gelu_tanh":
            return gelu(w, x, dtype, "tanh")
        case "quick_gelu":
            return gelu(w, x, dtype, "sigmoid")
        case "relu2":
            positive = w.op("Relu", x)
            return w.op("Mul", positive, positive)
    return w.op({"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}[name], x)


def _wide(dtype: DType) -> DType:
    return DType.F64 if dtype is DType.F64 else DType.F32


def _glu(w: OnnxWriter, node: Node) -> Sequence[str]:
    dtype = tensor_type(node.inputs[0]).dtype
    inner = _wide(dtype)
    gate, up = (w.cast(w.name_of(value), inner, dtype) for value in node.inputs)
    chosen = activation(w, gate, str_of(node.attrs, "activation"), inner)
    return [w.cast(w.op("Mul", chosen, up), dtype, inner)]


def _softcap(w: OnnxWriter, node: Node) -> Sequence[str]:
    dtype = tensor_type(node.inputs[0]).dtype
    inner = _wide(dtype)
    cap = w.constant(float_of(node.attrs, "cap"), inner)
    x = w.cast(w.name_of(node.inputs[0]), inner, dtype)
    return [w.cast(w.op("Mul", w.op("Tanh", w.op("Div", x, cap)), cap), dtype, inner)]


def _silu(w: OnnxWriter, node: Node) -> Sequence[str]:
    return [silu(w, w.name_of(node.inputs[0]))]


def _gelu(w: OnnxWriter, node: Node) -> Sequence[str]:
    x = node.inputs[0]
    return [gelu(w, w.name_of(x), tensor_type(x).dtype, str_of(node.attrs, "approximate"))]


def _softplus(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, dtype = w.name_of(node.inputs[0]), tensor_type(node.inputs[0]).dtype
    beta = w.constant(float_of(node.attrs, "beta"), dtype)
    limit = w.constant(float_of(node.attrs, "threshold"), dtype)
    scaled = w.op("Mul", x, beta)
    curve = w.op("Div", w.op("Softplus", scaled), beta)
    return [w.op("Where", w.op("Greater", scaled, limit), x, curve)]


def _clamp(w: OnnxWriter, node: Node) -> Sequence[str]:
    dtype = tensor_type(node.inputs[0]).dtype
    bounds = [bound_of(node.attrs, name) for name in ("min", "max")]
    names = ["" if bound is None else w.constant(bound, dtype) for bound in bounds]
    return [w.op("Clip", w.name_of(node.inputs[0]), *names)]


def _cast(w: OnnxWriter, node: Node) -> Sequence[str]:
    x = node.inputs[0]
    return [w.cast(w.name_of(x), dtype_of(node.attrs, "dtype"), tensor_type(x).dtype)]


def _where(w: OnnxWriter, node: Node) -> Sequence[str]:
    return [w.op("Where", *map(w.name_of, node.inputs))]


_REDUCTIONS: Mapping[str, str] = {
    "sum": "ReduceSum",
    "mean": "ReduceMean",
    "amax": "ReduceMax",
    "amin": "ReduceMin",
    "prod": "ReduceProd",
    "any": "ReduceMax",
}


def _reduce(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, dtype = w.name_of(node.inputs[0]), tensor_type(node.inputs[0]).dtype
    result = tensor_type(node.output).dtype
    inner = dtype
    if node.op in ("sum", "prod"):
        inner = result
    elif node.op == "any":
        x, dtype, inner = w.cast(x, DType.BOOL, dtype), DType.BOOL, DType.U8
    elif dtype is DType.BOOL:
        inner = DType.U8
    elif dtype is DType.I16:
        inner = DType.I32
    x = w.cast(x, inner, dtype)
    dims = ints_of(node.attrs, "dims")
    if dims:
        keep = int(bool_of(node.attrs, "keepdim"))
        x = w.op(_REDUCTIONS[node.op], x, w.ints(*dims), keepdims=keep)
    return [w.cast(x, result, inner)]


def _var(w: OnnxWriter, node: Node) -> Sequence[str]:
    x, type_ = w.name_of(node.inputs[0]), tensor_type(node.inputs[0])
    dims, correction = ints_of(node.attrs, "dims"), int_of(node.attrs, "correction")
    count = product(type_.shape[dim] for dim in dims) - correction
    if not dims:
        return [w.op("Mul", x, w.constant(math.nan if correction else 0.0, type_.dtype))]
    away = w.op("Sub", x, w.op("ReduceMean", x, w.ints(*dims), keepdims=1))
    keep = int(bool_of(node.attrs, "keepdim"))
    total = w.op("ReduceSum", w.op("Mul", away, away), w.ints(*dims), keepdims=keep)
    over = w.scalar(float(count) if isinstance(count, int) else count, type_.dtype)
    return [w.op("Div", total, over)]


def _argmax(w: OnnxWriter, node: Node) -> Sequence[str]:
    keep = int(bool_of(node.attrs, "keepdim"))
    return [
        w.op("ArgMax", w.name_of(node.inputs[0]), axis=int_of(node.attrs, "dim"), keepdims=keep)
    ]


def _softmax(w: OnnxWriter, node: Node) -> Sequence[str]:
    op_type = "Softmax" if node.op == "softmax" else "LogSoftmax"
    return [w.op(op_type, w.name_of(node.inputs[0]), axis=int_of(node.attrs, "dim"))]


def _cumsum(w: OnnxWriter, node: Node) -> Sequence[str]:
    x = node.inputs[0]
    summed = w.cast(w.name_of(x), tensor_type(node.output).dtype, tensor_type(x).dtype)
    return [w.op("CumSum", summed, w.constant(int_of(node.attrs, "dim"), DType.I64))]


def ranked(w: OnnxWriter, node: Node, count: str, *, largest: bool, in_order: bool) -> list[str]:
    """``TopK``, which of equal elements takes the first one first."""
    x, dtype = w.name_of(node.inputs[0]), tensor_type(node.inputs[0]).dtype
    inner = {DType.BF16: DType.F32, DType.BOOL: DType.U8}.get(dtype, dtype)
    values, places = w.ops(
        "TopK",
        [w.cast(x, inner, dtype), count],
        [w.fresh("topk"), w.fresh("places")],
        axis=int_of(node.attrs, "dim"),
        largest=int(largest),
        sorted=int(in_order),
    )
    return [w.cast(values, dtype, inner), places]


def _topk(w: OnnxWriter, node: Node) -> Sequence[str]:
    largest, in_order = bool_of(node.attrs, "largest"), bool_of(node.attrs, "sorted")
    return ranked(w, node, w.ints(int_of(node.attrs, "k")), largest=largest, in_order=in_order)


def _sort(w: OnnxWriter, node: Node) -> Sequence[str]:
    size = tensor_type(node.inputs[0]).shape[int_of(node.attrs, "dim")]
    descending = bool_of(node.attrs, "descending")
    return ranked(w, node, w.size(size), largest=descending, in_order=True)


POINTWISE: Mapping[str, Rule] = {
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys([*_BINARY, "ne"], _binary),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "pow": _pow,
    "logical_not": _logical_not,
    "remainder": _remainder,
    "floor_div": _floor_div,
    "rsqrt": _rsqrt,
    "silu": _silu,
    "gelu": _gelu,
    "glu": _glu,
    "softcap": _softcap,
    "softplus": _softplus,
    "clamp": _clamp,
    "cast": _cast,
    "where": _where,
    "var": _var,
    "argmax": _argmax,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "cumsum": _cumsum,
    "topk": _topk,
    "sort": _sort,
}
