"""What may be written into attention's ``score`` and ``mask``: which text is an expression.

The language is that of ``ops_scalar``, over these names, all of them numbers:

    score     the score so far: scaled, capped, with ALiBi (not in a mask)
    q, k      positions of the query and of the key in their sequence
    head      number of the query's head
    sequence  number of the sequence in the step

A score's expression is a number and replaces the score; a mask's is true where the query sees the
key. Positions and everything else are floats, exact up to 2^24. Nothing is ever evaluated as
Python: the text is parsed, and every node of the tree has to be one of those known here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from graphopt.errors import VerifyError

Kind = Literal["float", "bool"]
MASK_NAMES = ("q", "k", "head", "sequence")
SCORE_NAMES = ("score", *MASK_NAMES)
# Longer texts, and deeper trees, are no expression that somebody wrote.
MAX_CHARACTERS = 10_000
MAX_DEPTH = 100

# Functions of numbers, with how many they take; ``where`` is apart.
FUNCTIONS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("abs", "sqrt", "rsqrt", "exp", "log", "log1p", "expm1"), 1),
        **dict.fromkeys(("sin", "cos", "tan", "tanh", "erf", "floor", "ceil", "round"), 1),
        **dict.fromkeys(("maximum", "minimum", "pow", "remainder", "floor_div"), 2),
    }
)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def parse_score(text: str, names: tuple[str, ...], kind: Kind) -> ast.expr:
    """The tree of an expression, every node of which is known.

    Args:
        text: the expression.
        names: what it may read: ``SCORE_NAMES`` or ``MASK_NAMES``.
        kind: what it has to be.

    Raises:
        VerifyError: it is no such expression.
    """
    if len(text) > MAX_CHARACTERS:
        raise VerifyError(
            "an expression of attention is too long",
            got=f"{len(text)} characters",
            expected=f"at most {MAX_CHARACTERS}",
        )
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise VerifyError("an expression of attention does not parse", got=text) from error
    found = _Checker(text, names).kind(tree, 0)
    if found != kind:
        raise VerifyError(
            "an expression of attention is of the wrong kind",
            got=f"{text}, a {_word(found)}",
            expected=f"a {_word(kind)}",
        )
    return tree


def _word(kind: Kind) -> str:
    return "number" if kind == "float" else "condition"


class _Checker:
    """Finds the kind of each node, and refuses those that the language does not have."""

    def __init__(self, text: str, names: tuple[str, ...]) -> None:
        self.text = text
        self.names = names

    def kind(self, node: ast.expr, depth: int) -> Kind:
        """What a node is."""
        if depth > MAX_DEPTH:
            raise VerifyError(
                "an expression of attention is nested too deeply", expected=f"{MAX_DEPTH} levels"
            )
        inner = depth + 1
        match node:
            case ast.Name(id="inf" | "nan"):
                return "float"
            case ast.Name(id=name) if name in self.names:
                return "float"
            case ast.Constant(value=bool()):
                raise self.refused(node)
            case ast.Constant(value=int() | float()):
                return "float"
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.wants("float", inner, operand)
            case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _ARITHMETIC):
                return self.wants("float", inner, left, right)
            case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr(), right=right):
                return self.wants("bool", inner, left, right)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(
                op, _COMPARISONS
            ):
                return self.comparison(left, op, right, inner)
            case ast.Call(func=ast.Name(id="where"), args=[condition, a, b], keywords=[]):
                self.wants("bool", inner, condition)
                return self.wants("float", inner, a, b)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if FUNCTIONS.get(
                name
            ) == len(args):
                return self.wants("float", inner, *args)
        raise self.refused(node)

    def comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> Kind:
        """Of two numbers, or of a condition with 0, which is its opposite."""
        if isinstance(op, ast.Eq) and isinstance(right, ast.Constant) and right.value == 0:
            self.kind(left, depth)
        else:
            self.wants("float", depth, left, right)
        return "bool"

    def wants(self, kind: Kind, depth: int, *nodes: ast.expr) -> Kind:
        """``kind``, which all of ``nodes`` have to be."""
        for node in nodes:
            if self.kind(node, depth) != kind:
                raise VerifyError(
                    f"not a {_word(kind)} in an expression of attention",
                    got=ast.unparse(node),
                    where=self.text,
                )
        return kind

    def refused(self, node: ast.expr) -> VerifyError:
        """What is said of a node that the language does not have."""
        names = ", ".join(self.names)
        return VerifyError(
            "unknown in an expression of attention",
            got=ast.unparse(node),
            where=self.text,
            expected=f"{names}, numbers, + - * / == != < <= > >= & |, where and "
            f"{', '.join(FUNCTIONS)}",
        )
