"""The pointwise operators: one element of the output from the same element of each operand.

Operands of one node have equal element types; shapes broadcast as in numpy, where two sizes agree
if they are the same expression or one of them is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

from graphopt.errors import VerifyError

from .dtype import DType
from .graph import Attr
from .ops_spec import (
    Attrs,
    AttrSpec,
    Infer,
    OpSpec,
    Types,
    bound_of,
    dtype_of,
    float_of,
    scalar_of,
    tensor,
    tensors,
)
from .shape import Dim, Expr
from .types import TensorType, numel

COMPUTED_FLOATS = frozenset({DType.F64, DType.F32, DType.BF16, DType.F16})
_INTS = frozenset({DType.I64, DType.I32, DType.I16, DType.I8, DType.U8})
_BOOL = frozenset({DType.BOOL})
_CLASSES: Mapping[str, tuple[frozenset[DType], str]] = {
    "float": (COMPUTED_FLOATS, "f64, f32, bf16 or f16"),
    "number": (COMPUTED_FLOATS | _INTS, "a number type"),
    "bits": (_INTS | _BOOL, "an integer type or bool"),
    "any": (COMPUTED_FLOATS | _INTS | _BOOL, "a number type or bool"),
}


def broadcast(left: tuple[Dim, ...], right: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The shape that both shapes broadcast to.

    Raises:
        VerifyError: two sizes are neither the same expression nor 1.
    """
    if left == right:
        return left
    rank = max(len(left), len(right))
    pairs = zip((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right, strict=True)
    result: list[Dim] = []
    for a, b in pairs:
        if a != b and a != 1 and b != 1:
            raise VerifyError(
                f"sizes {a} and {b} do not broadcast",
                got=f"[{', '.join(map(str, left))}] and [{', '.join(map(str, right))}]",
                expected="equal sizes, or 1",
            )
        result.append(b if a == 1 else a)
    return tuple(result)


def require_class(type_: TensorType, kind: str, position: int = 0) -> None:
    """Demands that an element type belongs to a class: ``float``, ``number``, ``bits`` or ``any``.

    Raises:
        VerifyError: it does not.
    """
    allowed, words = _CLASSES[kind]
    if type_.dtype not in allowed:
        raise VerifyError(
            f"input {position} has an element type that is not computed with",
            got=type_,
            expected=words,
            next="insert a cast",
        )


def same_dtype(types: Sequence[TensorType]) -> None:
    """Demands floating-point operands of one element type.

    Raises:
        VerifyError: one differs, or is not computed with.
    """
    first = types[0]
    for position, type_ in enumerate(types):
        require_class(type_, "float", position)
        if type_.dtype != first.dtype:
            raise VerifyError(
                f"input {position} has another element type than input 0",
                got=type_,
                expected=first.dtype,
                next="insert a cast",
            )


def require_shape(type_: TensorType, shape: tuple[Dim, ...], position: int) -> None:
    """Demands that input ``position`` has a shape.

    Raises:
        VerifyError: it has another.
    """
    if type_.shape != shape:
        raise VerifyError(
            f"input {position} has the wrong shape",
            got=type_,
            expected=f"[{', '.join(map(str, shape))}]",
        )


def require_rank(type_: TensorType, rank: int, position: int) -> None:
    """Demands that input ``position`` has a number of dimensions.

    Raises:
        VerifyError: it has another.
    """
    if len(type_.shape) != rank:
        raise VerifyError(f"input {position} does not have {rank} dimensions", got=type_)


def require_scalar(value: bool | int | float | Expr, dtype: DType) -> None:
    """Demands that a constant can be an element of ``dtype``.

    Raises:
        VerifyError: a float among integers, a number among bools, or a bool among numbers.
    """
    if dtype.is_float:
        fits = isinstance(value, float | Expr)
    elif dtype is DType.BOOL:
        fits = isinstance(value, bool)
    else:
        fits = isinstance(value, int | Expr) and not isinstance(value, bool)
    if not fits:
        raise VerifyError(
            "the scalar does not have the element type",
            got=repr(value),
            expected=dtype,
            next="insert a cast",
        )


def _infer_unary(kind: str, result: DType | None) -> Infer:
    def infer(types: Types, attrs: Attrs) -> Types:
        x = tensor(types, 0)
        require_class(x, kind)
        return (TensorType(result or x.dtype, x.shape),)

    return infer


def _infer_binary(kind: str, result: DType | None) -> Infer:
    def infer(types: Types, attrs: Attrs) -> Types:
        operands = tensors(types)
        a = operands[0]
        require_class(a, kind)
        if len(operands) == 1:
            _check_scalar(a, attrs)
            return (TensorType(result or a.dtype, a.shape),)
        if attrs:
            raise VerifyError(
                "a scalar and a second operand exclude each other", got=", ".join(attrs)
            )
        b = operands[1]
        if a.dtype != b.dtype:
            raise VerifyError(
                f"operands have different element types, {a.dtype} and {b.dtype}",
                got=f"{a} and {b}",
                next="insert a cast",
            )
        return (TensorType(result or a.dtype, broadcast(a.shape, b.shape)),)

    return infer


def _check_scalar(a: TensorType, attrs: Attrs) -> None:
    for name in ("scalar", "reverse"):
        if name not in attrs:
            raise VerifyError(f"one operand needs attribute {name!r}", got=", ".join(attrs) or None)
    require_scalar(scalar_of(attrs, "scalar"), a.dtype)


def _complete_scalar(types: Types, attrs: dict[str, Attr]) -> None:
    if "scalar" not in attrs:
        return
    attrs.setdefault("reverse", False)
    a, scalar = tensor(types, 0), attrs["scalar"]
    if a.dtype.is_float and isinstance(scalar, int):
        attrs["scalar"] = float(scalar)
    elif a.dtype is DType.BOOL and isinstance(scalar, int) and scalar in (0, 1):
        attrs["scalar"] = bool(scalar)
    elif a.dtype.is_int and isinstance(scalar, bool | float) and float(scalar).is_integer():
        attrs["scalar"] = int(scalar)


def _complete_clamp(types: Types, attrs: dict[str, Attr]) -> None:
    if tensor(types, 0).dtype.is_float:
        for name in ("min", "max"):
            value = attrs.get(name)
            attrs[name] = float(value) if isinstance(value, int) else value


def _infer_clamp(types: Types, attrs: Attrs) -> Types:
    x = tensor(types, 0)
    require_class(x, "number")
    for name in ("min", "max"):
        value = bound_of(attrs, name)
        if value is not None and isinstance(value, float) != x.dtype.is_float:
            raise VerifyError(
                f"bound {name!r} does not have the element type of the input", got=value
            )
    return (x,)


def _infer_cast(types: Types, attrs: Attrs) -> Types:
    return (TensorType(dtype_of(attrs, "dtype"), tensor(types, 0).shape),)


def _infer_where(types: Types, attrs: Attrs) -> Types:
    condition, a, b = tensors(types)
    if condition.dtype is not DType.BOOL:
        raise VerifyError("the condition is not bool", got=condition, next="insert a cast")
    if a.dtype != b.dtype:
        raise VerifyError(
            f"operands have different element types, {a.dtype} and {b.dtype}", next="insert a cast"
        )
    shape = reduce(broadcast, (condition.shape, a.shape, b.shape))
    return (TensorType(a.dtype, shape),)


def _infer_glu(types: Types, attrs: Attrs) -> Types:
    gate, up = tensors(types)
    same_dtype((gate, up))
    require_shape(up, gate.shape, 1)
    return (gate,)


def _infer_softcap(types: Types, attrs: Attrs) -> Types:
    x = tensor(types, 0)
    require_class(x, "float")
    if not 0 < float_of(attrs, "cap") < float("inf"):
        raise VerifyError("the cap is not positive and finite", got=attrs["cap"])
    return (x,)


def _one_per_element(inputs: Types, attrs: Attrs, outputs: Types) -> Dim:
    return numel(tensor(outputs, 0))


# name, scalar expression, class of element types, element type of the result if another, meaning.
_UNARY: tuple[tuple[str, str, str, DType | None, str], ...] = (
    ("neg", "-a", "number", None, "The negative."),
    ("abs", "abs(a)", "number", None, "The absolute value."),
    ("sqrt", "sqrt(a)", "float", None, "The square root."),
    ("rsqrt", "rsqrt(a)", "float", None, "One over the square root."),
    ("reciprocal", "1.0 / a", "float", None, "One over each element."),
    ("exp", "exp(a)", "float", None, "e to the power of each element."),
    ("log", "log(a)", "float", None, "The natural logarithm."),
    ("log1p", "log1p(a)", "float", None, "The natural logarithm of one more, exact near 0."),
    ("expm1", "expm1(a)", "float", None, "e to the power of each element, less 1; exact near 0."),
    ("sin", "sin(a)", "float", None, "The sine."),
    ("cos", "cos(a)", "float", None, "The cosine."),
    ("tan", "tan(a)", "float", None, "The tangent."),
    ("tanh", "tanh(a)", "float", None, "The hyperbolic tangent."),
    ("sigmoid", "1.0 / (1.0 + exp(-a))", "float", None, "The logistic function."),
    ("silu", "a / (1.0 + exp(-a))", "float", None, "Each element times its sigmoid."),
    ("relu", "maximum(a, 0)", "number", None, "The greater of each element and zero."),
    ("erf", "erf(a)", "float", None, "The error function."),
    ("floor", "floor(a)", "number", None, "The greatest integer not above."),
    ("ceil", "ceil(a)", "number", None, "The least integer not below."),
    ("round", "round(a)", "number", None, "The nearest integer, halves to even."),
    ("sign", "where(a > 0, 1, where(a < 0, -1, 0))", "number", None, "-1, 0 or 1."),
    ("logical_not", "a == 0", "any", DType.BOOL, "Whether each element is zero."),
)
_BINARY: tuple[tuple[str, str, str, DType | None, str], ...] = (
    ("add", "a + b", "any", None, "The sum; of bool, whether either is true."),
    ("sub", "a - b", "number", None, "The difference."),
    ("mul", "a * b", "any", None, "The product; of bool, whether both are true."),
    ("div", "a / b", "float", None, "The quotient."),
    ("pow", "pow(a, b)", "number", None, "a to the power of b."),
    ("maximum", "maximum(a, b)", "any", None, "The greater; NaN if either is."),
    ("minimum", "minimum(a, b)", "any", None, "The smaller; NaN if either is."),
    (
        "remainder",
        "remainder(a, b)",
        "number",
        None,
        "What floor_div leaves; has the divisor's sign.",
    ),
    ("floor_div", "floor_div(a, b)", "number", None, "The quotient, rounded down."),
    ("eq", "a == b", "any", DType.BOOL, "Whether equal."),
    ("ne", "a != b", "any", DType.BOOL, "Whether different."),
    ("lt", "a < b", "any", DType.BOOL, "Whether less."),
    ("le", "a <= b", "any", DType.BOOL, "Whether less or equal."),
    ("gt", "a > b", "any", DType.BOOL, "Whether greater."),
    ("ge", "a >= b", "any", DType.BOOL, "Whether greater or equal."),
    ("logical_and", "(a != 0) and (b != 0)", "any", DType.BOOL, "Whether both are not zero."),
    ("logical_or", "(a != 0) or (b != 0)", "any", DType.BOOL, "Whether either is not zero."),
    ("bitwise_and", "a & b", "bits", None, "The bits that both have."),
    ("bitwise_or", "a | b", "bits", None, "The bits that either has."),
)
_SCALAR_FORM = (
    AttrSpec("scalar", "scalar", optional=True),
    AttrSpec("reverse", "bool", optional=True),
)
_GELU = "0.5 * a * (1.0 + erf(a * 0.7071067811865476))"
_GELU_TANH = "0.5 * a * (1.0 + tanh(0.7978845608028654 * (a + 0.044715 * a * a * a)))"
_GELU_SIGMOID = "a / (1.0 + exp(-1.702 * a))"
# What a gate or an expert goes through, by name.
ACTIVATIONS: Mapping[str, str] = {
    "silu": "a / (1.0 + exp(-a))",
    "gelu": _GELU,
    "gelu_tanh": _GELU_TANH,
    "relu": "maximum(a, 0)",
    "relu2": "maximum(a, 0) * maximum(a, 0)",
    "sigmoid": "1.0 / (1.0 + exp(-a))",
    "tanh": "tanh(a)",
    "quick_gelu": _GELU_SIGMOID,
    "identity": "a",
}


def _chosen(attr: str, choices: Mapping[str, str]) -> str:
    """An expression that an attribute chooses; the last one where it is none of the others."""
    *others, (_, last) = choices.items()
    return " else ".join([*(f"({text}) if {attr} == '{name}'" for name, text in others), last])


_CLAMP = (
    "(minimum(maximum(a, min), max) if min is not None else minimum(a, max)) "
    "if max is not None else (maximum(a, min) if min is not None else a)"
)

POINTWISE: tuple[OpSpec, ...] = (
    *(
        OpSpec(
            name=name,
            doc=doc,
            arity=(1, 1),
            infer=_infer_unary(kind, result),
            flops=_one_per_element,
            scalar=scalar,
        )
        for name, scalar, kind, result, doc in _UNARY
    ),
    *(
        OpSpec(
            name=name,
            doc=f"{doc} Two tensors, or one and a scalar, which `reverse` puts first.",
            arity=(1, 2),
            infer=_infer_binary(kind, result),
            flops=_one_per_element,
            scalar=scalar,
            attrs=_SCALAR_FORM,
            complete=_complete_scalar,
        )
        for name, scalar, kind, result, doc in _BINARY
    ),
    OpSpec(
        name="gelu",
        doc="Each element times the normal distribution function of it, or an approximation.",
        arity=(1, 1),
        infer=_infer_unary("float", None),
        flops=_one_per_element,
        scalar=_chosen(
            "approximate", {"none": _GELU, "tanh": _GELU_TANH, "sigmoid": _GELU_SIGMOID}
        ),
        attrs=(AttrSpec("approximate", "str", "none", choices=("none", "tanh", "sigmoid")),),
    ),
    OpSpec(
        name="glu",
        doc="glu(gate, up): the activation of the gate, times up; rounded once.",
        arity=(2, 2),
        infer=_infer_glu,
        flops=_one_per_element,
        scalar=_chosen("activation", {name: f"({text}) * b" for name, text in ACTIVATIONS.items()}),
        attrs=(AttrSpec("activation", "str", "silu", choices=tuple(ACTIVATIONS)),),
    ),
    OpSpec(
        name="softcap",
        doc="cap * tanh(x / cap), which is between -cap and cap; rounded once.",
        arity=(1, 1),
        infer=_infer_softcap,
        flops=_one_per_element,
        scalar="cap * tanh(a / cap)",
        attrs=(AttrSpec("cap", "float"),),
    ),
    OpSpec(
        name="softplus",
        doc="log(1 + exp(beta * x)) / beta, and x itself where beta * x exceeds the threshold.",
        arity=(1, 1),
        infer=_infer_unary("float", None),
        flops=_one_per_element,
        scalar="where(a * beta > threshold, a, log1p(exp(a * beta)) / beta)",
        attrs=(AttrSpec("beta", "float", 1.0), AttrSpec("threshold", "float", 20.0)),
    ),
    OpSpec(
        name="clamp",
        doc="Each element, not below min and not above max; none is no bound.",
        arity=(1, 1),
        infer=_infer_clamp,
        flops=_one_per_element,
        scalar=_CLAMP,
        attrs=(AttrSpec("min", "bound", None), AttrSpec("max", "bound", None)),
        complete=_complete_clamp,
    ),
    OpSpec(
        name="cast",
        doc="The same numbers in another element type, rounded to nearest even.",
        arity=(1, 1),
        infer=_infer_cast,
        scalar="cast(a, dtype)",
        attrs=(AttrSpec("dtype", "dtype"),),
    ),
    OpSpec(
        name="where",
        doc="An element of the second operand where the first is true, else of the third.",
        arity=(3, 3),
        infer=_infer_where,
        flops=_one_per_element,
        scalar="where(a, b, c)",
    ),
)
