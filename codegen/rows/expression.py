"""The scalar expressions of pointwise operators as text: what all languages have in common.

before:  ``a / (1.0 + exp(-a))``, the text of ``graphopt.ir.ops_scalar``, and operands as text
after:   ``x / (1.0f + exp(-x))`` in C++, ``x / (1.0 + tl.exp(-x))`` in Triton

A language says how tightly its operators bind, what it calls numbers, functions, choices and casts,
and which facts about a term it keeps.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from graphopt.ir.dtype import DType
from graphopt.ir.shape import Dim, Expr, Symbol, parse_dim

from .tree import Kind

# Of bool, arithmetic is logic.
_LOGIC: Mapping[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Or,
    ast.BitOr: ast.Or,
    ast.Mult: ast.And,
    ast.BitAnd: ast.And,
}
_NAMED_LOGIC: Mapping[str, type[ast.AST]] = {"maximum": ast.Or, "minimum": ast.And}
# Powers of floats that are products or roots.
_POWERS: Mapping[object, str] = {0.5: "sqrt", 2.0: "square", 3.0: "cube"}


@dataclass(frozen=True, slots=True)
class Term:
    """A piece of text that has a value.

    Attributes:
        text: the expression.
        kind: what it computes with.
        level: how tightly its outermost operator binds.
    """

    text: str
    kind: Kind
    level: int

    def within(self, level: int) -> str:
        """The text as an operand of an operator that binds so tightly."""
        return self.text if self.level >= level else f"({self.text})"


T = TypeVar("T", bound=Term)


class Printer(ABC, Generic[T]):
    """Turns one expression into text.

    Args:
        operands: what its names ``a``, ``b``, ``c`` are.

    Attributes:
        operators: what an operator is called, and how tightly it binds.
        sign: how tightly a sign binds.
    """

    operators: Mapping[type[ast.AST], tuple[str, int]]
    sign: int

    def __init__(self, operands: Mapping[str, T]) -> None:
        self.operands = operands
        main = operands["b"] if "c" in operands else next(iter(operands.values()))
        self.kind: Kind = main.kind  # of numbers that stand in the expression

    # ---- What a language says -------------------------------------------------------------------

    @abstractmethod
    def literal(self, value: bool | int | float | Expr, kind: Kind) -> T:
        """A number of a kind."""

    @abstractmethod
    def joined(self, text: str, kind: Kind, level: int, parts: Sequence[T]) -> T:
        """What is made of ``parts`` by an operator."""

    @abstractmethod
    def opposite(self, mask: T) -> T:
        """What is true where ``mask`` is not."""

    @abstractmethod
    def applied(self, name: str, args: Sequence[T]) -> T:
        """A function of arguments."""

    @abstractmethod
    def where(self, condition: T, a: T, b: T) -> T:
        """``a`` where the condition holds, else ``b``."""

    @abstractmethod
    def cast(self, value: T, dtype: DType) -> T:
        """A number as another type, rounded if that is a narrower float."""

    def operator(self, op: type[ast.AST], left: T, right: T) -> tuple[str, int]:
        """What an operator between two terms is called, and how tightly it binds."""
        return self.operators[op]

    def compared(self, op: type[ast.AST], left: T, right: T) -> T:
        """A comparison."""
        text, level = self.operators[op]
        both = f"{left.within(level + 1)} {text} {right.within(level + 1)}"
        return self.joined(both, "bool", level, ())

    # ---- What they have in common ---------------------------------------------------------------

    def term(self, node: ast.expr) -> T:
        """The text of one node."""
        match node:
            case ast.Name(id="inf" | "nan" as name):
                return self.literal(float(name), "float")
            case ast.Name(id=name):
                return self.operands[name]
            case ast.Constant(value=bool() | int() | float() as value):
                return self.literal(value, self.kind)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return self.literal(-value, self.kind)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.term(operand)
                text = f"-{inner.within(self.sign + 1)}"
                return self.joined(text, inner.kind, self.sign, [inner])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.opposite(self.term(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return self.binary(type(op), self.term(left), self.term(right))
            case ast.BoolOp(op=op, values=[left, right]):
                return self.binary(type(op), self.term(left), self.term(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self.compare(type(op), left, right)
            case ast.Call(func=ast.Name(id=name), args=args):
                return self.call(name, args)
        raise NotImplementedError(ast.dump(node))

    def binary(self, op: type[ast.AST], left: T, right: T) -> T:
        """An arithmetic, bitwise or logical operation."""
        if left.kind == "bool":
            op = _LOGIC.get(op, op)
        text, level = self.operator(op, left, right)
        both = f"{left.within(level)} {text} {right.within(level + 1)}"
        return self.joined(both, left.kind, level, [left, right])

    def compare(self, op: type[ast.AST], left: ast.expr, right: ast.expr) -> T:
        """A comparison; of a bool with zero or one, itself or its opposite."""
        a = self.term(left)
        if a.kind == "bool" and isinstance(right, ast.Constant) and right.value in (0, 1):
            same = (op is ast.NotEq) != bool(right.value)
            if op in (ast.NotEq, ast.Eq):
                return a if same else self.opposite(a)
        return self.compared(op, a, self.term(right))

    def call(self, name: str, args: Sequence[ast.expr]) -> T:
        """A call of one of the functions that expressions may call."""
        if name == "cast":
            dtype = DType(args[1].id) if isinstance(args[1], ast.Name) else DType.F32
            return self.cast(self.term(args[0]), dtype)
        if name == "size":
            return self.literal(parse_dim(ast.literal_eval(args[0])), self.kind)
        terms = [self.term(arg) for arg in args]
        if name == "where":
            return self.where(*terms)
        if terms[0].kind == "bool" and name in _NAMED_LOGIC:
            return self.binary(_NAMED_LOGIC[name], *terms)
        if name == "pow" and (found := self.power(terms[0], args[1])) is not None:
            return found
        return self.applied(name, terms)

    def power(self, base: T, exponent: ast.expr) -> T | None:
        """A power of floats that is a product or a root."""
        if base.kind != "float" or not isinstance(exponent, ast.Constant):
            return None
        function = _POWERS.get(exponent.value)
        return self.applied(function, [base]) if function else None


def dim_text(
    dim: Dim, symbol: Callable[[str], str], function: Callable[[str, Sequence[str]], str]
) -> str:
    """A size as text.

    Args:
        dim: the size.
        symbol: what a size of the step is called.
        function: the text of ``min``, ``max``, ``//`` or ``%`` of some texts, as a factor.
    """
    if isinstance(dim, int):
        return str(dim)
    terms = []
    for monomial, coefficient in dim.terms:
        factors = [str(coefficient)] if coefficient != 1 or not monomial else []
        for atom in monomial:
            if isinstance(atom, Symbol):
                factors.append(symbol(atom.name))
            else:
                args = [dim_text(arg, symbol, function) for arg in atom.args]
                factors.append(function(atom.kind, args))
        terms.append(" * ".join(factors))
    return " + ".join(terms)
