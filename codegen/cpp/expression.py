"""The scalar expressions of pointwise operators in C++, on single numbers or on sixteen.

before:  ``a / (1.0 + exp(-a))``, the text of ``graphopt.ir.ops_scalar``, and operands as C++ text
after:   ``x / (1.0f + exp(-x))``

Floats are computed in f32, integers in int64, bool in bool; of sixteen numbers only floats, whose
comparisons are masks. A float's literal takes part in vector arithmetic as it is and is spread
where a function or a comparison wants a vector.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, Expr

from ..rows import expression
from ..rows.tree import Buffer, Kind, kind_of

CTYPES: Mapping[DType, str] = {
    DType.F32: "float",
    DType.BF16: "bf16",
    DType.F16: "f16",
    DType.I64: "int64_t",
    DType.I32: "int32_t",
    DType.I16: "int16_t",
    DType.I8: "int8_t",
    DType.U8: "uint8_t",
    DType.BOOL: "bool",
}
# How tightly an operator binds.
_OR, _AND, _BIT_OR, _BIT_AND, _EQUAL, _COMPARE, _SUM, _PRODUCT, _SIGN, _ATOM = range(1, 11)
_OPERATORS: Mapping[type[ast.AST], tuple[str, int]] = {
    ast.Or: ("||", _OR),
    ast.And: ("&&", _AND),
    ast.BitOr: ("|", _BIT_OR),
    ast.BitAnd: ("&", _BIT_AND),
    ast.Eq: ("==", _EQUAL),
    ast.NotEq: ("!=", _EQUAL),
    ast.Lt: ("<", _COMPARE),
    ast.LtE: ("<=", _COMPARE),
    ast.Gt: (">", _COMPARE),
    ast.GtE: (">=", _COMPARE),
    ast.Add: ("+", _SUM),
    ast.Sub: ("-", _SUM),
    ast.Mult: ("*", _PRODUCT),
    ast.Div: ("/", _PRODUCT),
}
_WHOLE = ("floor", "ceil", "round")  # of an integer: itself


class NotVectorError(Exception):
    """An expression that is not computed on sixteen numbers at a time."""


@dataclass(frozen=True, slots=True)
class Term(expression.Term):
    """A piece of C++ that has a value.

    Attributes:
        vector: whether it is sixteen numbers (floats, or a mask where ``kind`` is bool).
    """

    level: int = _ATOM
    vector: bool = False

    def spread(self) -> str:
        """The text as sixteen numbers."""
        if self.vector:
            return self.text
        if self.kind != "float":
            raise NotVectorError
        return f"splat({self.text})"


def ctype_of(buffer: Buffer) -> str:
    """The type of a buffer's elements."""
    return buffer.spelled or CTYPES[buffer.dtype or DType.U8]


def float_literal(value: float) -> str:
    """A number as an f32."""
    if math.isnan(value):
        return "NOT_A_NUMBER"
    if abs(value) > 3.4028235677973366e38:  # rounds to infinity
        return "INF" if value > 0 else "-INF"
    return f"{value!r}f"


def literal(value: bool | int | float | Expr, kind: Kind) -> Term:
    """A number of a kind."""
    if isinstance(value, Expr):
        text = dim_text(value)
        return Term(f"float({text})", kind) if kind == "float" else Term(f"({text})", kind)
    if kind == "float":
        text = float_literal(float(value))
        return Term(text, kind, _SIGN if text.startswith("-") else _ATOM)
    if kind == "bool":
        return Term("true" if value else "false", kind)
    return Term(f"int64_t({int(value)})", kind)


def dim_text(dim: Dim) -> str:
    """A size in C++, an int64_t; uses math.h."""
    return expression.dim_text(dim, lambda name: f"step.{name}", _function)


def _function(name: str, args: Sequence[str]) -> str:
    wide = ", ".join(f"int64_t({arg})" for arg in args)
    if name in ("min", "max"):
        return f"std::{name}({{{wide}}})"
    return f"{'floor_div' if name == '//' else 'remainder'}({wide})"


def cpp_expression(scalar: str, operands: Mapping[str, Term], dtype: DType) -> Term:
    """A scalar expression in C++.

    Args:
        scalar: from ``scalar_expression``.
        operands: what its names ``a``, ``b``, ``c`` are.
        dtype: the element type of the result, to which integers wrap.

    Raises:
        NotVectorError: operands are vectors, and it is not computed on vectors.
    """
    result = _Printer(operands).term(ast.parse(scalar, mode="eval").body)
    if result.kind == "int" and dtype.is_int and dtype is not DType.I64:
        return Term(f"int64_t({CTYPES[dtype]}({result.text}))", "int")
    return result


class _Printer(expression.Printer[Term]):
    """Prints C++."""

    operators = _OPERATORS
    sign = _SIGN

    def literal(self, value: bool | int | float | Expr, kind: Kind) -> Term:
        """A number of a kind."""
        return literal(value, kind)

    def joined(self, text: str, kind: Kind, level: int, parts: Sequence[Term]) -> Term:
        """Sixteen numbers if a part is."""
        return Term(text, kind, level, any(part.vector for part in parts))

    def operator(self, op: type[ast.AST], left: Term, right: Term) -> tuple[str, int]:
        """Masks have other operators than bools."""
        if left.vector or right.vector:
            if left.kind == "bool":
                if not (left.vector and right.vector):
                    raise NotVectorError
                op = ast.BitAnd if op is ast.And else ast.BitOr
            elif "int" in (left.kind, right.kind):
                raise NotVectorError
        return self.operators[op]

    def compared(self, op: type[ast.AST], left: Term, right: Term) -> Term:
        """A comparison; of sixteen numbers a mask."""
        if not (left.vector or right.vector):
            return super().compared(op, left, right)
        if left.kind != "float":
            raise NotVectorError
        text, level = self.operators[op]
        a, b = (one.within(level + 1) if one.vector else one.spread() for one in (left, right))
        return Term(f"{a} {text} {b}", "bool", level, vector=True)

    def opposite(self, mask: Term) -> Term:
        """What is true where ``mask`` is not."""
        if mask.vector:
            return Term(f"opposite({mask.text})", "bool", vector=True)
        return Term(f"!{mask.within(_SIGN)}", "bool", _SIGN)

    def applied(self, name: str, args: Sequence[Term]) -> Term:
        """A function of math.h or vec.h, which are called what they are in expressions."""
        first, vector = args[0], any(arg.vector for arg in args)
        if first.kind == "int" and name in _WHOLE:
            return first
        if vector and any(arg.kind != "float" for arg in args):
            raise NotVectorError
        texts = [arg.spread() if vector else arg.text for arg in args]
        return Term(f"{name}({', '.join(texts)})", first.kind, vector=vector)

    def where(self, condition: Term, a: Term, b: Term) -> Term:
        """``a`` where the condition holds, else ``b``."""
        if not any(term.vector for term in (condition, a, b)):
            return Term(
                f"({condition.text} ? {a.within(_OR)} : {b.within(_OR)})",
                "float" if "float" in (a.kind, b.kind) else a.kind,
            )
        if a.kind != "float" or b.kind != "float":
            raise NotVectorError
        if not condition.vector:
            text = f"({condition.text} ? {a.spread()} : {b.spread()})"
        else:
            text = f"select({condition.text}, {a.spread()}, {b.spread()})"
        return Term(text, "float", vector=True)

    def cast(self, value: Term, dtype: DType) -> Term:
        """A number as another type, rounded if that is a narrower float."""
        ctype, kind = CTYPES[dtype], kind_of(dtype)
        if value.vector and kind == "float" and value.kind == "bool":
            return Term(f"select({value.text}, splat(1.0f), zeros())", "float", vector=True)
        if value.vector and kind == "bool" and value.kind == "float":
            return Term(f"{value.within(_COMPARE)} != zeros()", "bool", _EQUAL, vector=True)
        if value.vector and kind != value.kind:
            raise NotVectorError
        if kind == "float":
            if value.kind != "float":
                return Term(f"float({value.text})", "float")
            if ctype == "float":
                return value
            return Term(f"rounded<{ctype}>({value.text})", "float", vector=value.vector)
        if kind == "bool":
            if value.kind == "bool":
                return value
            return Term(f"{value.within(_COMPARE)} != 0", "bool", _EQUAL)
        whole = value.text if value.kind == "int" else f"int64_t({value.text})"
        return Term(whole, "int")  # a narrower type wraps, as every result does
