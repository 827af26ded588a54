"""Fold what surrounds a linear map into its operands, where that is exact.

before:  %y = linear(%x, @w);  %z = add(%y, @b)
after:   %z = linear(%x, @w, @b)

before:  %y = linear(%x, @w);  %z = mul(%y) {scalar = 0.125}
after:   %v = mul(@w) {scalar = 0.125};  %z = linear(%x, %v)

A bias enters the sum before it is rounded, one rounding less than before. A factor moves into the
weights only if it is a power of two: any other would round each weight, which changes the numbers
by more than the rounding of the result did. The weight of a norm before the map is such a factor
and is never known to be exact, so it stays where it is and becomes the map's prologue.
"""

from __future__ import annotations

import math

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Value
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, accept, refuse

from .constants import is_constant
from .hoist import why_not_folded
from .match import Attr, Match, Pattern, Var, op
from .rules import RewriteRule, RulePass
from .typed import shape_of

# A power of two within this range cannot take a weight of bf16 or f32 out of the normal numbers
# that trained models have; f16 has fewer exponents and is refused.
LEAST, GREATEST = 2.0**-16, 2.0**16


class FoldBias(RewriteRule):
    """A vector that is added to a linear map's result becomes its bias."""

    def pattern(self, x: Var, w: Var) -> Pattern:
        """linear(x, w) + b, where b is a vector."""
        return op.add(op.linear(x, w), Var("b", _not_a_vector))

    def near(self, needed: int) -> int:
        """Never: a residual is added in every layer and is no bias."""
        return needed + 1

    def check(self, m: Match) -> Verdict:
        """The vector has to be a constant with one number for each output feature."""
        if used := m.used_outside():
            return refuse("the result without the bias is used too", *used)
        if not is_constant(m.graph, m.b):
            return refuse("what is added is computed in the step", m.b)
        if shape_of(m.b) != shape_of(m.w)[:1]:
            return refuse("what is added is not one number for each feature", m.b)
        return accept("the bias is added before rounding")

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """linear(x, w, b)."""
        return new.one("linear", [m.x, m.w, m.b], loc=m.loc)


class FoldScale(RewriteRule):
    """A power of two by which a linear map's result is multiplied moves into the weight."""

    def pattern(self, x: Var, w: Var) -> Pattern:
        """linear(x, w) * scale."""
        return op.mul(op.linear(x, w), scalar=Attr("scale"))

    def check(self, m: Match) -> Verdict:
        """The factor has to be a power of two, and the weight this map's own."""
        if used := m.used_outside():
            return refuse("the result without the factor is used too", *used)
        if not is_constant(m.graph, m.w) or len(m.graph.users[m.w]) > 1:
            return refuse("the weight is computed in the step, or used elsewhere too", m.w)
        scale = m["scale"]
        if not isinstance(scale, int | float) or not _is_power_of_two(scale):
            return refuse(f"weights times {scale} would be rounded", m.root.output)
        if not isinstance(m.w.type, TensorType) or m.w.type.dtype.value not in ("bf16", "f32"):
            return refuse("a small weight times the factor could leave the type's range", m.w)
        (linear,) = m.graph.users[m.w]
        if reason := why_not_folded(m.graph, [m.w], [linear]):
            return refuse(f"weights would be multiplied in every step: {reason}", m.w)
        return accept(f"weights times {scale} are exact")

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """linear(x, w * scale)."""
        weight = new.one("mul", [m.w], {"scalar": m["scale"]}, loc=m.loc)
        return new.one("linear", [m.x, weight], loc=m.loc)


def fold_linear() -> RulePass:
    """The pass."""
    return RulePass(
        "fold-linear",
        [FoldBias(), FoldScale()],
        requires={"linear maps raised"},
        ensures={"biases folded"},
    )


def _not_a_vector(value: Value) -> str:
    return "" if len(shape_of(value)) == 1 else "which is no vector"


def _is_power_of_two(scale: float) -> bool:
    return scale > 0 and math.frexp(scale)[0] == 0.5 and LEAST <= scale <= GREATEST
