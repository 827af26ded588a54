"""Graphs of every pointwise operator on every element type, and of what makes data."""

from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph
from graphopt.ir.ops import OPS
from graphopt.ir.ops_pointwise import ACTIVATIONS
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType

from .cases import chain, operation

T = sym("T")
F32, BF16, F16, I64, BOOL = DType.F32, DType.BF16, DType.F16, DType.I64, DType.BOOL
# Operators whose results are far from exact for some operands, by the nature of the function.
_OF_POSITIVE = ("log", "sqrt", "rsqrt", "reciprocal")
_FLOATS_ONLY = (
    *_OF_POSITIVE,
    "exp",
    "log1p",
    "expm1",
    "sin",
    "cos",
    "tan",
    "tanh",
    "sigmoid",
    "silu",
    "erf",
    "div",
)
_BITS_ONLY = ("bitwise_and", "bitwise_or")
_NO_BOOL = (
    *("neg", "abs", "relu", "floor", "ceil", "round", "sign", "sub", "pow"),
    *("remainder", "floor_div", "clamp"),
)


def _tensor(dtype: DType, *shape: object) -> TensorType:
    return TensorType(dtype, tuple(shape))  # type: ignore[arg-type]


def _legal(op: str, dtype: DType) -> bool:
    if dtype.is_float:
        return op not in _BITS_ONLY
    if op in _FLOATS_ONLY:
        return False
    return dtype.is_int or op not in _NO_BOOL


def _unary(op: str, dtype: DType) -> Graph:
    x = _tensor(dtype, T, 5, 7)
    if op not in _OF_POSITIVE:
        return operation(op, [x])
    return chain(
        [x],
        lambda b, given: [
            b.one(op, [b.one("add", [b.one("abs", given)], {"scalar": 0.1, "reverse": False})])
        ],
    )


def _binary(op: str, dtype: DType) -> list[Graph]:
    if op == "pow":
        wide = _tensor(dtype, T, 21)
        return [
            operation(op, [wide], scalar=scalar)
            for scalar in ((2.0, 3.0) if dtype.is_float else (2, 3))
        ]
    if op in ("remainder", "floor_div"):
        divisor: Attr = -0.75 if dtype.is_float else -3
        return [operation(op, [_tensor(dtype, T, 21)], scalar=divisor)]
    scalar: Attr = 0.5 if dtype.is_float else True if dtype is BOOL else 3
    return [
        operation(op, [_tensor(dtype, T, 3, 19), _tensor(dtype, 3, 1)]),
        operation(op, [_tensor(dtype, T, 1, 19), _tensor(dtype, 1, T, 3, 1)])
        if op == "add"
        else operation(op, [_tensor(dtype, T, 19), _tensor(dtype, T, 1)]),
        operation(op, [_tensor(dtype, T, 33)], scalar=scalar, reverse=True),
        operation(op, [_tensor(dtype, T, 33)], scalar=scalar, reverse=False),
    ]


def _graphs(dtype: DType) -> list[Graph]:
    graphs: list[Graph] = []
    for op, spec in OPS.items():
        if spec.scalar is None or op in (
            "cast",
            "where",
            "glu",
            "gelu",
            "softcap",
            "softplus",
            "clamp",
        ):
            continue
        if not _legal(op, dtype):
            continue
        graphs += [_unary(op, dtype)] if spec.arity == (1, 1) else _binary(op, dtype)
    return graphs


def floats() -> list[Graph]:
    """Every operator on floats."""
    x = _tensor(F32, T, 37)
    graphs = _graphs(F32)
    graphs += [operation("glu", [x, x], activation=name) for name in ACTIVATIONS]
    graphs += [operation("gelu", [x], approximate=name) for name in ("none", "tanh", "sigmoid")]
    graphs += [
        operation("softcap", [x], cap=3.0),
        operation("softplus", [x], beta=2.0, threshold=1.0),
        operation("clamp", [x], min=-0.5, max=None),
        operation("clamp", [x], min=None, max=0.25),
        operation("clamp", [x], min=-0.5, max=0.25),
        operation("where", [_tensor(BOOL, T, 37), x, x]),
        operation("where", [_tensor(BOOL, T, 1), x, _tensor(F32, 37)]),
    ]
    return graphs


def integers_and_bools() -> list[Graph]:
    """Every operator on integers and bools; narrow integers wrap."""
    graphs = [*_graphs(I64), *_graphs(BOOL)]
    for dtype in (DType.I32, DType.I16, DType.I8, DType.U8):
        x = _tensor(dtype, T, 9)
        graphs += [
            operation("add", [x, x]),
            operation("mul", [x], scalar=77),
            operation("neg", [x]),
        ]
    return graphs


def casts_and_mixtures() -> list[Graph]:
    """Between all types; results of several shapes and types from one region."""
    kinds = (F32, BF16, F16, I64, DType.I32, DType.I8, BOOL)
    graphs = [
        operation("cast", [_tensor(a, T, 21)], dtype=b) for a in kinds for b in kinds if a is not b
    ]
    graphs += [
        chain(
            [_tensor(BF16, T, 21), _tensor(BF16, 21)],
            lambda b, x: [
                y := b.one("tanh", [b.one("mul", x)]),
                b.one("gt", [y, x[0]]),
                b.one("exp", [y]),
                b.one("cast", [b.one("mul", [y], {"scalar": 8.0})], {"dtype": I64}),
            ],
        ),
    ]
    return graphs


def creation() -> list[Graph]:
    """Numbers out of nothing take part; alone they have no rows."""

    def with_x(op: str, x: TensorType, **attrs: Attr) -> Graph:
        return chain([x], lambda b, given: [b.one("add", [given[0], b.one(op, [], attrs)])])

    ids = _tensor(I64, T, 3)
    graphs = [
        with_x("full", _tensor(F32, T, 8), shape=(8,), dtype=F32, value=1.5),
        with_x("full", _tensor(I64, T, 8), shape=(T, 1), dtype=I64, value=T),
        with_x("iota", _tensor(I64, T), start=3, end=T + 3, step=1),
        with_x("iota", _tensor(I64, T, 8), start=3, end=-13, step=-2),
        with_x("iota", _tensor(F32, T, 8), start=0.5, end=4.5, step=0.5, dtype=F32),
        operation("one_hot", [ids], classes=4),
        operation("tril", [_tensor(F32, T, 5, 7)], diagonal=1),
        operation("triu", [_tensor(BF16, T, 7)], diagonal=-2),
        operation("tril", [_tensor(BOOL, 5, T)], diagonal=0),
    ]
    return graphs
