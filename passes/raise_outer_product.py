"""Raise a matrix product over one term to a product of elements.

before:  %a = matmul(%frequencies, %positions)               [r, 1] times [1, T]
after:   %a = mul(%frequencies, %positions)                  [r, T], each operand repeated

A transposition that follows is taken along, as it costs nothing before the operands are repeated.
Some models make the angles of their rotations so. With one term there is nothing to add up: both
compute in float32 or better and round once, so no bit changes.
"""

from __future__ import annotations

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Value
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, accept, refuse

from .match import Attr, Match, Pattern, Var, op
from .rules import RewriteRule, RulePass
from .typed import shape_of


class ProductOfOneTerm(RewriteRule):
    """A matrix product whose inner size is 1."""

    def pattern(self, x: Var, y: Var) -> Pattern:
        """The product."""
        return op.matmul(x, y)

    def check(self, m: Match) -> Verdict:
        """Both are matrices, or stacks of them, with one column and one row."""
        x, y = m.x.type, m.y.type
        if not isinstance(x, TensorType) or not isinstance(y, TensorType):
            return refuse("an operand is no tensor", m.x, m.y)
        if len(x.shape) < 2 or len(y.shape) < 2 or x.shape[-1] != 1:
            return refuse("it adds up several terms", m.x, m.y)
        return accept("a product over one term")

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The product of elements."""
        return new.one("mul", [m.x, m.y], loc=m.loc)


class TransposedProductOfOneTerm(ProductOfOneTerm):
    """The same, transposed."""

    def pattern(self, x: Var, y: Var) -> Pattern:
        """The transposed product."""
        return op.permute(op.matmul(x, y), dims=Attr("dims", _swaps_last, "the last two swapped"))

    def check(self, m: Match) -> Verdict:
        """As without the transposition; both operands have as many dimensions as it."""
        for value in (m.x, m.y):
            if not isinstance(value.type, TensorType) or len(value.type.shape) != len(m["dims"]):
                return refuse("an operand has fewer dimensions than the product", value)
        return ProductOfOneTerm.check(self, m)

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The product of operands whose one row or column became the other."""
        operands = []
        for value in (m.y, m.x):
            *stack, rows, columns = shape_of(value)
            shape = (*stack, columns, rows)
            operands.append(new.one("reshape", [value], {"shape": shape}, loc=m.loc))
        return new.one("mul", operands, loc=m.loc)


def _swaps_last(dims: object) -> bool:
    if not isinstance(dims, tuple) or len(dims) < 2:
        return False
    rank = len(dims)
    return dims == (*range(rank - 2), rank - 1, rank - 2)


def raise_outer_product() -> RulePass:
    """The pass."""
    rules = [TransposedProductOfOneTerm(), ProductOfOneTerm()]
    return RulePass("raise-outer-product", rules)
