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
from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, Expr, Symbol, parse_dim

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
_OPERATORS: Mapping[type[ast.AST], tuple[str, int]] = {
    ast.Or: ("||", 1),
    ast.And: ("&&", 2),
    ast.BitOr: ("|", 3),
    ast.BitAnd: ("&", 4),
    ast.Eq: ("==", 5),
    ast.NotEq: ("!=", 5),
    ast.Lt: ("<", 6),
    ast.LtE: ("<=", 6),
    ast.Gt: (">", 6),
    ast.GtE: (">=", 6),
    ast.Add: ("+", 7),
    ast.Sub: ("-", 7),
    ast.Mult: ("*", 8),
    ast.Div: ("/", 8),
    ast.USub: ("-", 9),
    ast.Not: ("!", 9),
}
_ATOM = 10
# Of bool, arithmetic is logic.
_LOGIC: Mapping[str, type[ast.AST]] = {
    "+": ast.Or,
    "|": ast.Or,
    "maximum": ast.Or,
    "*": ast.And,
    "&": ast.And,
    "minimum": ast.And,
}
# Powers of floats that are products or roots.
_POWERS: Mapping[object, str] = {0.5: "sqrt", 2.0: "square", 3.0: "cube"}
_WHOLE = ("floor", "ceil", "round")  # of an integer: itself


class NotVectorError(Exception):
    """An expression that is not computed on sixteen numbers at a time."""


@dataclass(frozen=True, slots=True)
class Term:
    """A piece of C++ that has a value.

    Attributes:
        text: the expression.
        kind: what it computes with.
        vector: whether it is sixteen numbers (floats, or a mask where ``kind`` is bool).
        level: how tightly its outermost operator binds.
    """

    text: str
    kind: Kind
    vector: bool = False
    level: int = _ATOM

    def within(self, level: int) -> str:
        """The text as an operand of an operator that binds so tightly."""
        return self.text if self.level >= level else f"({self.text})"

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
        return Term(text, kind, level=9 if text.startswith("-") else _ATOM)
    if kind == "bool":
        return Term("true" if value else "false", kind)
    return Term(f"int64_t({int(value)})", kind)


def dim_text(dim: Dim) -> str:
    """A size in C++, an int64_t; uses math.h."""
    if isinstance(dim, int):
        return str(dim)
    terms = []
    for monomial, coefficient in dim.terms:
        factors = [str(coefficient)] if coefficient != 1 or not monomial else []
        for atom in monomial:
            if isinstance(atom, Symbol):
                factors.append(f"step.{atom.name}")
            elif atom.kind in ("min", "max"):
                args = ", ".join(f"int64_t({dim_text(arg)})" for arg in atom.args)
                factors.append(f"std::{atom.kind}({{{args}}})")
            else:
                left, right = (f"int64_t({dim_text(arg)})" for arg in atom.args)
                function = "floor_div" if atom.kind == "//" else "remainder"
                factors.append(f"{function}({left}, {right})")
        terms.append(" * ".join(factors))
    return " + ".join(terms)


def cpp_expression(scalar: str, operands: Mapping[str, Term], dtype: DType) -> Term:
    """A scalar expression in C++.

    Args:
        scalar: from ``scalar_expression``.
        operands: what its names ``a``, ``b``, ``c`` are.
        dtype: the element type of the result, to which integers wrap.

    Raises:
        NotVectorError: operands are vectors, and it is not computed on vectors.
    """
    tree = ast.parse(scalar, mode="eval").body
    result = _Printer(operands).term(tree)
    if result.kind == "int" and dtype.is_int and dtype is not DType.I64:
        return Term(f"int64_t({CTYPES[dtype]}({result.text}))", "int")
    return result


class _Printer:
    """Turns one expression into text."""

    def __init__(self, operands: Mapping[str, Term]) -> None:
        self.operands = operands
        main = operands["b"] if "c" in operands else next(iter(operands.values()))
        self.kind: Kind = main.kind  # of numbers that stand in the expression

    def term(self, node: ast.expr) -> Term:
        """The C++ of one node."""
        match node:
            case ast.Name(id="inf"):
                return literal(math.inf, "float")
            case ast.Name(id="nan"):
                return literal(math.nan, "float")
            case ast.Name(id=name):
                return self.operands[name]
            case ast.Constant(value=bool() | int() | float() as value):
                return literal(value, self.kind)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return literal(-value, self.kind)
            case ast.UnaryOp(op=op, operand=operand):
                text, level = _OPERATORS[type(op)]
                inner = self.term(operand)
                return Term(text + inner.within(level + 1), inner.kind, inner.vector, level)
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(type(op), self.term(left), self.term(right))
            case ast.BoolOp(op=op, values=[left, right]):
                return self.binary(type(op), self.term(left), self.term(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.compare(type(op), left, right)
            case ast.Call(func=ast.Name(id=name), args=args):
                return self.call(name, args)
        raise NotImplementedError(ast.dump(node))

    def binary(self, op: type[ast.AST], left: Term, right: Term) -> Term:
        """An arithmetic, bitwise or logical operation."""
        text, level = _OPERATORS[op]
        if left.kind == "bool" and text in _LOGIC:
            return self.binary(_LOGIC[text], left, right)
        vector = left.vector or right.vector
        if vector and left.kind == "bool":
            if not (left.vector and right.vector):
                raise NotVectorError
            text, level = _OPERATORS[ast.BitAnd if op is ast.And else ast.BitOr]
        elif vector and "int" in (left.kind, right.kind):
            raise NotVectorError
        return Term(
            f"{left.within(level)} {text} {right.within(level + 1)}", left.kind, vector, level
        )

    def compare(self, op: type[ast.AST], left: ast.expr, right: ast.expr) -> Term:
        """A comparison; of a bool with zero, itself or its opposite."""
        a = self.term(left)
        if a.kind == "bool" and isinstance(right, ast.Constant) and right.value in (0, 1):
            same = (op is ast.NotEq) != bool(right.value)
            if op in (ast.NotEq, ast.Eq):
                return a if same else self.opposite(a)
        text, level = _OPERATORS[op]
        b = self.term(right)
        if not (a.vector or b.vector):
            return Term(f"{a.within(level + 1)} {text} {b.within(level + 1)}", "bool", False, level)
        if a.kind != "float":
            raise NotVectorError
        left_text, right_text = (
            one.within(level + 1) if one.vector else one.spread() for one in (a, b)
        )
        return Term(f"{left_text} {text} {right_text}", "bool", True, level)

    def opposite(self, mask: Term) -> Term:
        """What is true where ``mask`` is not."""
        if mask.vector:
            return Term(f"opposite({mask.text})", "bool", True)
        return Term(f"!{mask.within(9)}", "bool", False, 9)

    def call(self, name: str, args: list[ast.expr]) -> Term:
        """A call of one of the functions that expressions may call."""
        if name == "cast":
            return self.cast(self.term(args[0]), args[1])
        if name == "size":
            text = ast.literal_eval(args[0])
            return literal(parse_dim(text), self.kind)
        terms = [self.term(arg) for arg in args]
        if name == "where":
            return self.where(*terms)
        if terms[0].kind == "bool" and name in _LOGIC:
            return self.binary(_LOGIC[name], *terms)
        if terms[0].kind == "int" and name in _WHOLE:
            return terms[0]
        if name == "pow" and (found := self.power(terms[0], args[1])) is not None:
            return found
        vector = any(term.vector for term in terms)
        if vector and any(term.kind != "float" for term in terms):
            raise NotVectorError
        texts = [term.spread() if vector else term.text for term in terms]
        return Term(f"{name}({', '.join(texts)})", terms[0].kind, vector)

    def power(self, base: Term, exponent: ast.expr) -> Term | None:
        """A power that is a product or a root."""
        if base.kind != "float" or not isinstance(exponent, ast.Constant):
            return None
        function = _POWERS.get(exponent.value)
        return Term(f"{function}({base.text})", "float", base.vector) if function else None

    def where(self, condition: Term, a: Term, b: Term) -> Term:
        """``a`` where the condition holds, else ``b``."""
        if not any(term.vector for term in (condition, a, b)):
            return Term(
                f"({condition.text} ? {a.within(1)} : {b.within(1)})",
                "float" if "float" in (a.kind, b.kind) else a.kind,
            )
        if a.kind != "float" or b.kind != "float":
            raise NotVectorError
        if not condition.vector:
            return Term(f"({condition.text} ? {a.spread()} : {b.spread()})", "float", True)
        return Term(f"select({condition.text}, {a.spread()}, {b.spread()})", "float", True)

    def cast(self, value: Term, target: ast.expr) -> Term:
        """A number as another type, rounded if that is a narrower float."""
        dtype = DType(target.id) if isinstance(target, ast.Name) else DType.F32
        ctype, kind = CTYPES[dtype], kind_of(dtype)
        if value.vector and kind == "float" and value.kind == "bool":
            return Term(f"select({value.text}, splat(1.0f), zeros())", "float", True)
        if value.vector and kind == "bool" and value.kind == "float":
            return Term(f"{value.within(6)} != zeros()", "bool", True, 5)
        if value.vector and kind != value.kind:
            raise NotVectorError
        if kind == "float":
            if value.kind != "float":
                return Term(f"float({value.text})", "float")
            if ctype == "float":
                return value
            return Term(f"rounded<{ctype}>({value.text})", "float", value.vector)
        if kind == "bool":
            if value.kind == "bool":
                return value
            return Term(f"{value.within(6)} != 0", "bool", False, 5)
        whole = value.text if value.kind == "int" else f"int64_t({value.text})"
        return Term(whole, "int")  # a narrower type wraps, as every result does
