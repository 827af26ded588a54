"""The expressions in attention's ``score`` and ``mask``, in PyTorch."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .ops_scores import MASK_NAMES, SCORE_NAMES, parse_score

_OPERATORS: Mapping[type[ast.AST], Callable[[Any, Any], Tensor]] = {
    ast.Add: torch.add,
    ast.Sub: torch.sub,
    ast.Mult: torch.mul,
    ast.Div: torch.true_divide,
    ast.BitAnd: torch.logical_and,
    ast.BitOr: torch.logical_or,
    ast.Eq: torch.eq,
    ast.NotEq: torch.ne,
    ast.Lt: torch.lt,
    ast.LtE: torch.le,
    ast.Gt: torch.gt,
    ast.GtE: torch.ge,
}
_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "pow": torch.pow,
    "remainder": torch.remainder,
    "floor_div": torch.floor_divide,
    "where": torch.where,
}

# Computes an expression of tensors of one element type that broadcast, by name.
Expression = Callable[[Mapping[str, Tensor]], Tensor]


def score_expression(text: str) -> Expression | None:
    """What replaces a score; None if the text is empty.

    Raises:
        VerifyError: it is no expression of a score.
    """
    return _computed(parse_score(text, SCORE_NAMES, "float")) if text else None


def mask_expression(text: str) -> Expression | None:
    """Whether a score counts; None if the text is empty.

    Raises:
        VerifyError: it is no expression of a mask.
    """
    return _computed(parse_score(text, MASK_NAMES, "bool")) if text else None


def _computed(node: ast.expr) -> Expression:
    match node:
        case ast.Name(id="inf" | "nan" as name):
            return _number(math.inf if name == "inf" else math.nan)
        case ast.Name(id=name):
            return lambda names: names[name]
        case ast.Constant(value=int() | float() as value):
            return _number(value)
        case ast.UnaryOp(operand=operand):
            inner = _computed(operand)
            return lambda names: torch.neg(inner(names))
        case ast.BinOp(left=left, op=op, right=right):
            return _called(_OPERATORS[type(op)], [left, right])
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _called(_OPERATORS[type(op)], [left, right])
        case ast.Call(func=ast.Name(id=name), args=args):
            return _called(_FUNCTIONS[name], args)
    raise NotImplementedError(ast.dump(node))


def _number(value: float) -> Expression:
    return lambda names: torch.full_like(names["q"], value)


def _called(function: Callable[..., Tensor], args: list[ast.expr]) -> Expression:
    parts = [_computed(arg) for arg in args]
    return lambda names: function(*(part(names) for part in parts))
