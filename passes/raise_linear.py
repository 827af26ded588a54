"""Raise a matrix product with a constant to a linear map.

before:  %y = matmul(%x, @w)                                 @w: [K, N]
after:   %t = permute(@w) {dims = [1, 0]};  %y = linear(%x, %t)

Models and exporters write the product in either way; everything that knows linear maps (merging,
folding, prologues and epilogues, packed weights) then knows these too. The transposed weight is a
constant and is made once. The sums have the same terms, so numbers differ by their order at most.
"""

from __future__ import annotations

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Value
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, accept, refuse

from .constants import is_constant
from .match import Match, Pattern, Var, op
from .rules import RewriteRule, RulePass


class ProductWithConstant(RewriteRule):
    """A product whose second factor is a constant matrix."""

    def pattern(self, x: Var, w: Var) -> Pattern:
        """The product."""
        return op.matmul(x, w)

    def check(self, m: Match) -> Verdict:
        """The second factor is a matrix that no step changes."""
        if not is_constant(m.graph, m.w):
            return refuse("the second factor is computed in the step", m.w)
        if not isinstance(m.w.type, TensorType) or len(m.w.type.shape) != 2:
            return refuse("the second factor is no single matrix", m.w)
        return accept("a product with a constant matrix")

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The linear map."""
        turned = new.one("permute", [m.w], {"dims": (1, 0)}, loc=m.loc)
        return new.one("linear", [m.x, turned], loc=m.loc)


def raise_linear() -> RulePass:
    """The pass."""
    return RulePass("raise-linear", [ProductWithConstant()], ensures={"linear maps raised"})
