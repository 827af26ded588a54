"""Raise a hyperbolic tangent between a division and a multiplication by one number to an operator.

before:  %a = div(%x) {scalar = 30.0};  %t = tanh(%a);  %y = mul(%t) {scalar = 30.0}
after:   %y = softcap(%x) {cap = 30.0}

The division may be a multiplication by the inverse, and everything may be computed in float32
between casts. The operator computes in float32 and rounds once: in float32 numbers differ by 1e-6
of the cap or less, in bf16 by what the roundings in between had lost, up to 2^-6 of the result.
"""

from __future__ import annotations

import math

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Value
from graphopt.ledger import Verdict, refuse

from .match import Attr, Match, Pattern, Var, either, op
from .rules import RewriteRule, RulePass
from .spelling import computes_wide, narrow, wide


def _capped(x: Pattern) -> Pattern:
    """Cap * tanh(x / cap)."""
    inside = either(
        op.div(x, scalar=Attr("divisor"), reverse=False), op.mul(x, scalar=Attr("inverse"))
    )
    return op.mul(op.tanh(inside), scalar=Attr("cap"))


class Softcap(RewriteRule):
    """A soft cap in one type."""

    def pattern(self, x: Var) -> Pattern:
        """Cap * tanh(x / cap)."""
        return _capped(x)

    def check(self, m: Match) -> Verdict:
        """It is scaled up by as much as it was scaled down, and its type is kept."""
        cap = m["cap"]
        if not isinstance(cap, float) or not 0 < cap < math.inf:
            return refuse(f"the cap is {cap}", m.root.output)
        if "divisor" in m and m["divisor"] != cap:
            return refuse(f"divided by {m['divisor']}, multiplied by {cap}", m.root.output)
        if "inverse" in m and not math.isclose(m["inverse"] * cap, 1.0, rel_tol=1e-6):
            return refuse(f"multiplied by {m['inverse']}, then by {cap}", m.root.output)
        if m.root.output.type != m.x.type:
            return refuse(f"of {m.x.type} it makes {m.root.output.type}", m.x, m.root.output)
        return computes_wide(m, m.x)

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        return new.one("softcap", [m.x], {"cap": m["cap"]}, loc=m.loc)


class SoftcapBetweenCasts(Softcap):
    """A soft cap that is computed in a wider type."""

    def pattern(self, x: Var) -> Pattern:
        """round(cap * tanh(x / cap))."""
        return narrow(_capped(wide(x)))


def raise_softcap() -> RulePass:
    """The pass."""
    return RulePass("raise-softcap", [SoftcapBetweenCasts(), Softcap()])
