"""Lowerings of PyTorch's pointwise operators: casts are made explicit, scalars stay scalars."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Value
from graphopt.ir.shape import Expr

from .emitter import type_of
from .lowering import Call, Lowering, NotLowered, Result


def _unary(op: str) -> Lowering:
    def lower(call: Call) -> Result:
        x = call.value("self")
        if call.name.endswith(".decimals"):
            raise NotLowered("rounding to decimals")
        if op not in ("logical_not", "abs", "neg", "relu", "sign", "floor", "ceil", "round"):
            x = call.emit.cast(x, call.dtype)
        return call.emit.one(op, [x])

    return lower


def _binary(op: str) -> Lowering:
    """Two operands, either of which may be a number; computed in the promoted type."""

    def lower(call: Call) -> Result:
        dtype = call.promoted("self", "other")
        return _apply(call, op, call.get("self"), _scaled(call, dtype), dtype)

    return lower


def _apply(call: Call, op: str, a: object, b: object, dtype: DType) -> Value:
    if isinstance(a, Value) and isinstance(b, Value):
        wide = _wide(op, a, b, dtype)
        out = call.emit.one(op, [call.emit.cast(a, wide), call.emit.cast(b, wide)])
        rounds = type_of(out).dtype is wide is not dtype
        return call.emit.cast(out, dtype) if rounds else out
    tensor, scalar, reverse = (a, b, False) if isinstance(a, Value) else (b, a, True)
    if not isinstance(tensor, Value) or not isinstance(scalar, bool | int | float | Expr):
        raise NotLowered(f"{call.name}: operands are not tensors and numbers")
    changes_nothing = scalar == 1 and (op == "mul" or (op in ("div", "pow") and not reverse))
    if changes_nothing:
        return call.emit.cast(tensor, dtype)
    attrs: dict[str, Attr] = {"scalar": _number(scalar, dtype), "reverse": reverse}
    return call.emit.one(op, [call.emit.cast(tensor, dtype)], attrs)


def _wide(op: str, a: Value, b: Value, dtype: DType) -> DType:
    """The type to compute in.

    PyTorch multiplies and divides by a second operand of no dimensions as it is; before every
    other operator, and in front, it rounds a number to the other operand's type.
    """
    factors = (b,) if op in ("mul", "div", "floor_div") else ()
    numbers = [type_of(value) for value in factors if not type_of(value).shape]
    wider = [type_.dtype for type_ in numbers if type_.dtype.nbytes > dtype.nbytes]
    if dtype.is_float and wider and wider[0] is DType.F32:
        return DType.F32
    return dtype


def _number(scalar: bool | int | float | Expr, dtype: DType) -> bool | int | float | Expr:
    if isinstance(scalar, bool) and dtype.is_int:
        return int(scalar)
    if isinstance(scalar, float) and dtype.is_int:
        if scalar == int(scalar):
            return int(scalar)
        raise NotLowered("a fraction among integers", got=scalar)
    if isinstance(scalar, bool | int) and dtype.is_float:
        return float(scalar)
    return scalar


def _scaled(call: Call, dtype: DType) -> object:
    """``alpha * other``."""
    other, alpha = call.get("other"), call.get("alpha", 1)
    if alpha == 1:
        return other
    if dtype in (DType.BF16, DType.F16):
        raise NotLowered("a factor whose product PyTorch does not round")
    if isinstance(other, Value):
        return _apply(call, "mul", other, alpha, dtype)
    return other * alpha


def _reversed_sub(call: Call) -> Result:
    a, b = call.get("self"), call.get("other")
    if call.get("alpha", 1) != 1:
        raise NotLowered("rsub with alpha")
    return _apply(call, "sub", b, a, call.dtype)


def _divide(call: Call) -> Result:
    mode, dtype = call.get("rounding_mode"), call.promoted("self", "other")
    if mode is None:
        dtype = dtype if dtype.is_float else call.dtype
        return _apply(call, "div", call.get("self"), call.get("other"), dtype)
    if mode == "floor":
        return _apply(call, "floor_div", call.get("self"), call.get("other"), dtype)
    raise NotLowered("division that truncates")


def _power(call: Call) -> Result:
    dtype = call.promoted("self", "exponent")
    return _apply(call, "pow", call.get("self"), call.get("exponent"), dtype)


def _square(call: Call) -> Result:
    x = call.emit.cast(call.value("self"), call.dtype)
    return call.emit.one("mul", [x, x])


def _where(call: Call) -> Result:
    dtype = call.dtype
    condition = call.emit.cast(call.value("condition"), DType.BOOL)
    sides = [_side(call, name, dtype) for name in ("self", "other")]
    return call.emit.one("where", [condition, *sides])


def _side(call: Call, name: str, dtype: DType) -> Value:
    given = call.get(name)
    if isinstance(given, Value):
        return call.emit.cast(given, dtype)
    if isinstance(given, bool | int | float):
        return call.emit.full((), dtype, given)
    raise NotLowered(f"{call.name}: {name} is neither a tensor nor a number")


def _masked_fill(call: Call) -> Result:
    x, mask = call.value("self"), call.emit.cast(call.value("mask"), DType.BOOL)
    return call.emit.one("where", [mask, _side(call, "value", call.dtype), x])


def _clamp(call: Call) -> Result:
    x, dtype = call.emit.cast(call.value("self"), call.dtype), call.dtype
    low, high = call.get("min"), call.get("max")
    if isinstance(low, Value):
        x, low = call.emit.one("maximum", [x, call.emit.cast(low, dtype)]), None
    if isinstance(high, Value):
        x, high = call.emit.one("minimum", [x, call.emit.cast(high, dtype)]), None
    if low is None and high is None:
        return x
    bounds = [None if bound is None else _number(bound, dtype) for bound in (low, high)]
    if any(isinstance(bound, Expr) for bound in bounds):
        raise NotLowered("a bound that is a size")
    return call.emit.one("clamp", [x], {"min": bounds[0], "max": bounds[1]})


def _hardtanh(call: Call) -> Result:
    bounds = {"min": call.number("min_val", -1.0), "max": call.number("max_val", 1.0)}
    return call.emit.one("clamp", [call.value("self")], bounds)


def _relu6(call: Call) -> Result:
    return call.emit.one("clamp", [call.value("self")], {"min": 0.0, "max": 6.0})


def _gelu(call: Call) -> Result:
    approximate = call.get("approximate", "none")
    return call.emit.one("gelu", [call.value("self")], {"approximate": str(approximate)})


def _softplus(call: Call) -> Result:
    attrs = {
        "beta": float(call.number("beta", 1.0)),
        "threshold": float(call.number("threshold", 20.0)),
    }
    return call.emit.one("softplus", [call.value("self")], attrs)


def _bitwise_not(call: Call) -> Result:
    x = call.value("self")
    if type_of(x).dtype is not DType.BOOL:
        raise NotLowered("the complement of integers")
    return call.emit.one("logical_not", [x])


def _cast(call: Call) -> Result:
    return call.emit.cast(call.value("self"), call.dtype)


def _like(op: str) -> Lowering:
    """``maximum`` and ``minimum``, whose second operand has other names elsewhere."""

    def lower(call: Call) -> Result:
        if not call.has("other"):
            raise NotLowered("a reduction")
        return _apply(call, op, call.get("self"), call.get("other"), call.dtype)

    return lower


def _clamp_side(side: str) -> Lowering:
    def lower(call: Call) -> Result:
        x, bound = call.emit.cast(call.value("self"), call.dtype), call.get(side)
        if isinstance(bound, Value):
            op = "maximum" if side == "min" else "minimum"
            return call.emit.one(op, [x, call.emit.cast(bound, call.dtype)])
        return call.emit.one("clamp", [x], {side: _number(call.number(side), call.dtype)})

    return lower


_UNARY = [
    "neg",
    "abs",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "exp",
    "log",
    "sin",
    "cos",
    "log1p",
    "expm1",
    "tan",
    "tanh",
    "sigmoid",
    "silu",
    "relu",
    "erf",
    "floor",
    "ceil",
    "round",
    "sign",
    "logical_not",
]
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")

POINTWISE: Mapping[str, Lowering] = {
    **{f"aten.{name}": _unary(name) for name in _UNARY},
    **{f"aten.{name}": _binary(name) for name in _COMPARISONS},
    **{f"aten.{name}": _binary(name) for name in ("add", "sub", "mul", "remainder")},
    "aten.subtract": _binary("sub"),
    "aten.multiply": _binary("mul"),
    "aten.greater": _binary("gt"),
    "aten.less": _binary("lt"),
    "aten.logical_and": _binary("logical_and"),
    "aten.logical_or": _binary("logical_or"),
    "aten.bitwise_and": _binary("bitwise_and"),
    "aten.bitwise_or": _binary("bitwise_or"),
    "aten.__and__": _binary("bitwise_and"),
    "aten.__or__": _binary("bitwise_or"),
    "aten.rsub": _reversed_sub,
    "aten.div": _divide,
    "aten.divide": _divide,
    "aten.true_divide": _divide,
    "aten.floor_divide": _binary("floor_div"),
    "aten.pow": _power,
    "aten.square": _square,
    "aten.maximum": _like("maximum"),
    "aten.minimum": _like("minimum"),
    "aten.max.other": _like("maximum"),
    "aten.min.other": _like("minimum"),
    "aten.where": _where,
    "aten.masked_fill": _masked_fill,
    "aten.clamp": _clamp,
    "aten.clip": _clamp,
    "aten.clamp_min": _clamp_side("min"),
    "aten.clamp_max": _clamp_side("max"),
    "aten.hardtanh": _hardtanh,
    "aten.relu6": _relu6,
    "aten.gelu": _gelu,
    "aten.softplus": _softplus,
    "aten.bitwise_not": _bitwise_not,
    "aten.to": _cast,
    "aten._to_copy": _cast,
    "aten.type_as": _cast,
}
