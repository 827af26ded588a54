"""Scalar expressions, read by an evaluator of their own, mean what the reference computes."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphopt.errors import VerifyError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.ops import OPS
from graphopt.ir.ops_scalar import FUNCTIONS, scalar_expression
from graphopt.ir.reference import prepare, torch_dtype
from graphopt.ir.shape import evaluate, parse_dim, sym

from .sample_tensors import inputs_for, sizes_of_step
from .samples import SAMPLES

POINTWISE = sorted(name for name, spec in OPS.items() if spec.scalar is not None)


def _tensor(value: object) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _called(function: Callable[[Tensor], Tensor], value: object) -> Tensor:
    return function(_tensor(value))


UNARY = frozenset(
    [
        "abs",
        "sqrt",
        "rsqrt",
        "exp",
        "log",
        "log1p",
        "expm1",
        "sin",
        "cos",
        "tan",
        "tanh",
        "erf",
        "floor",
        "ceil",
        "round",
    ]
)
MEANINGS: Mapping[str, Callable[..., Any]] = {
    **{name: partial(_called, getattr(torch, name)) for name in FUNCTIONS if name in UNARY},
    "maximum": lambda x, y: torch.maximum(_tensor(x), _like(y, x)),
    "minimum": lambda x, y: torch.minimum(_tensor(x), _like(y, x)),
    "pow": lambda x, y: torch.pow(x, y),
    "remainder": lambda x, y: torch.remainder(x, y),
    "floor_div": lambda x, y: torch.floor_divide(_like(x, y), y),
    "where": lambda c, x, y: torch.where(c, _like(x, c), _like(y, c)),
    "cast": lambda x, dtype: x.to(torch_dtype(dtype)),
}


def _like(value: object, other: object) -> Tensor:
    """``value`` as a tensor that can meet ``other``."""
    if isinstance(value, Tensor):
        return value
    keep = isinstance(other, Tensor) and other.dtype != torch.bool
    return torch.tensor(value, dtype=other.dtype if keep else None)  # type: ignore[union-attr]


class Evaluator:
    """A tree of the expressions' grammar, on tensors."""

    def __init__(self, operands: Mapping[str, Any], env: Mapping[str, int]) -> None:
        self.names = {**operands, "inf": math.inf, "nan": math.nan, **{d.value: d for d in DType}}
        self.env = env

    def run(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self.names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.run(operand)
            case ast.Call(func=ast.Name(id="size"), args=[ast.Constant(value=str(text))]):
                return evaluate(parse_dim(text), self.env)
            case ast.Call(func=ast.Name(id=name), args=args):
                assert name in FUNCTIONS
                return MEANINGS[name](*map(self.run, args))
            case ast.BoolOp(op=op, values=[left, right]):
                both = torch.logical_and if isinstance(op, ast.And) else torch.logical_or
                sides = [self.run(side) for side in (left, right)]
                return both(
                    *[side if isinstance(side, Tensor) else torch.tensor(side) for side in sides]
                )
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(type(op), self.run(left), self.run(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.compare(type(op), self.run(left), self.run(right))
        raise AssertionError(ast.dump(node))

    def binary(self, op: type[ast.operator], a: Any, b: Any) -> Any:
        match op.__name__:
            case "Add":
                return a + b
            case "Sub":
                return a - b
            case "Mult":
                return a * b
            case "Div":
                return a / b
            case "BitAnd":
                return a & b
            case "BitOr":
                return a | b
        raise AssertionError(op)

    def compare(self, op: type[ast.cmpop], a: Any, b: Any) -> Any:
        names = {"Eq": "eq", "NotEq": "ne", "Lt": "lt", "LtE": "le", "Gt": "gt", "GtE": "ge"}
        left = a if isinstance(a, Tensor) else torch.tensor(a)
        return getattr(torch, names[op.__name__])(left, b)


@pytest.mark.parametrize("op", POINTWISE)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_expressions_mean_what_the_reference_computes(op: str, seed: int) -> None:
    rng = Random(seed)
    sample, env = SAMPLES[op](rng), sizes_of_step(rng)
    builder = GraphBuilder("one")
    values = [builder.input(str(i), type_) for i, type_ in enumerate(sample.types)]
    output = builder.one(op, values, sample.attrs)
    inputs = inputs_for(sample, env, seed)
    (expected,) = prepare(builder.nodes[0])(inputs, env)
    text = scalar_expression(op, builder.nodes[0].attrs)
    wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]
    found = Evaluator(dict(zip("abc", wide, strict=False)), env).run(
        ast.parse(text, mode="eval").body
    )
    shape = [evaluate(dim, env) for dim in output.type.shape]  # type: ignore[union-attr]
    found = _tensor(found).to(expected.dtype).expand(shape)
    loose = {torch.bfloat16: 2e-2, torch.float16: 3e-3}.get(expected.dtype, 1e-5)
    if expected.dtype.itemsize == 1:
        found, expected, loose = found.float(), expected.float(), 0.0
    torch.testing.assert_close(found, expected, rtol=loose, atol=loose, equal_nan=True)


@pytest.mark.parametrize(
    ("op", "attrs", "text"),
    [
        ("mul", {}, "a * b"),
        ("mul", {"scalar": 2.0, "reverse": False}, "a * 2.0"),
        ("sub", {"scalar": 1.5, "reverse": True}, "1.5 - a"),
        ("sub", {"scalar": -1.5, "reverse": False}, "a - -1.5"),
        ("pow", {"scalar": -math.inf, "reverse": True}, "pow(-inf, a)"),
        ("add", {"scalar": sym("T") + 1, "reverse": False}, "a + size('T + 1')"),
        ("eq", {"scalar": True, "reverse": False}, "a == True"),
        ("cast", {"dtype": DType.BF16}, "cast(a, bf16)"),
        ("clamp", {"min": None, "max": 7.0}, "minimum(a, 7.0)"),
        ("clamp", {"min": -7, "max": None}, "maximum(a, -7)"),
        ("clamp", {"min": -1.0, "max": 1.0}, "minimum(maximum(a, -1.0), 1.0)"),
        ("clamp", {"min": None, "max": None}, "a"),
        ("gelu", {"approximate": "none"}, "0.5 * a * (1.0 + erf(a * 0.7071067811865476))"),
        ("gelu", {"approximate": "sigmoid"}, "a / (1.0 + exp(-1.702 * a))"),
        ("glu", {"activation": "silu"}, "a / (1.0 + exp(-a)) * b"),
        ("glu", {"activation": "relu2"}, "maximum(a, 0) * maximum(a, 0) * b"),
        ("glu", {"activation": "identity"}, "a * b"),
        ("softcap", {"cap": 30.0}, "30.0 * tanh(a / 30.0)"),
    ],
)
def test_text(op: str, attrs: dict[str, Attr], text: str) -> None:
    assert scalar_expression(op, attrs) == text


@pytest.mark.parametrize("op", ["softmax", "aten.relu", "frobnicate"])
def test_only_pointwise_operators_have_one(op: str) -> None:
    with pytest.raises(VerifyError, match="not pointwise"):
        scalar_expression(op, {})


def test_every_function_is_used() -> None:
    text = " ".join(OPS[op].scalar or "" for op in POINTWISE)
    assert all(f"{name}(" in text for name in FUNCTIONS if name != "size")
