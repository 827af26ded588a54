"""Raise the arithmetic of a layer norm to one operator.

before:  %m = mean(%x);  %c = sub(%x, %m);  %v = mean(pow(%c) {scalar = 2.0})
         %n = mul(%c, rsqrt(add(%v) {scalar = eps}));  %y = add(mul(@w, %n), @b)
after:   %y = layer_norm(%x, @w, @b) {eps = eps, axes = 1}

Weight and bias may be absent. Everything may be computed in float32 and cast back at the end, as
the operator does, or before the weight is applied; then the operator rounds less often, and a
result may differ by one rounding of bf16 for each rounding it saves. In float32 numbers differ by
1e-6 of the row's greatest element, since sums are added up in another order.
"""

from __future__ import annotations

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Value
from graphopt.ledger import Verdict

from .match import Match, Pattern, Var, either, op
from .norm_pattern import mean, normalizes_rows, over_root, square, variance
from .rules import RewriteRule, RulePass
from .spelling import narrow, wide


def _norm(x: Pattern) -> Pattern:
    """X less its mean, over its deviation."""
    centred = op.sub(x, mean(x))
    return over_root(centred, either(mean(square(centred)), variance(x)))


class _LayerNorm(RewriteRule):
    """A layer norm of ``x``, with or without a ``weight`` and a ``bias``."""

    def check(self, m: Match) -> Verdict:
        """It is over the last dimension, and keeps x's type."""
        return normalizes_rows(m, ["weight", "bias"])

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        parameters = [m.values[name] for name in ("weight", "bias") if name in m]
        attrs = {
            "eps": m.get("eps", 0.0),
            "has_weight": "weight" in m,
            "has_bias": "bias" in m,
        }
        return new.one("layer_norm", [m.x, *parameters], attrs, loc=m.loc)


class LayerNormCastAfterWeight(_LayerNorm):
    """As in cohere: weight and bias are widened, and the result rounded."""

    def pattern(self, x: Var, weight: Var, bias: Var) -> Pattern:
        """round(norm(x) * weight + bias)."""
        product = op.mul(_norm(wide(x)), wide(weight))
        return narrow(either(op.add(product, wide(bias)), product))


class LayerNormCastBeforeWeightAndBias(_LayerNorm):
    """Weight and bias are applied to what was rounded."""

    def pattern(self, x: Var, weight: Var, bias: Var) -> Pattern:
        """round(norm(x)) * weight + bias."""
        return op.add(op.mul(narrow(_norm(wide(x))), weight), bias)


class LayerNormCastBeforeWeight(_LayerNorm):
    """The weight is applied to what was rounded."""

    def pattern(self, x: Var, weight: Var) -> Pattern:
        """round(norm(x)) * weight."""
        return op.mul(narrow(_norm(wide(x))), weight)


class LayerNormWithoutWeight(_LayerNorm):
    """No parameters."""

    def pattern(self, x: Var) -> Pattern:
        """round(norm(x))."""
        return narrow(_norm(wide(x)))


class LayerNormInOneTypeWithBias(_LayerNorm):
    """Nothing is cast."""

    def pattern(self, x: Var, weight: Var, bias: Var) -> Pattern:
        """norm(x) * weight + bias."""
        return op.add(op.mul(_norm(x), weight), bias)


class LayerNormInOneType(_LayerNorm):
    """Nothing is cast."""

    def pattern(self, x: Var, weight: Var) -> Pattern:
        """norm(x) * weight."""
        return op.mul(_norm(x), weight)


class LayerNormAlone(_LayerNorm):
    """What is left: the norm itself, whatever happens before and after."""

    def pattern(self, x: Var) -> Pattern:
        """norm(x)."""
        return _norm(x)


def raise_layer_norm() -> RulePass:
    """The pass. It runs before raise-rms-norm, to which a centred value is like any other."""
    rules = [
        LayerNormCastAfterWeight(),
        LayerNormCastBeforeWeightAndBias(),
        LayerNormCastBeforeWeight(),
        LayerNormWithoutWeight(),
        LayerNormInOneTypeWithBias(),
        LayerNormInOneType(),
        LayerNormAlone(),
    ]
    return RulePass("raise-layer-norm", rules, ensures={"layer norms raised"})
