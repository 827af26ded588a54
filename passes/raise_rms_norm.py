"""Raise the arithmetic of a root-mean-square norm to one operator.

before:  %a = cast(%x) {dtype = f32};  %b = pow(%a) {scalar = 2.0};  %c = mean(%b) {dims = [1]}
         %d = rsqrt(add(%c) {scalar = eps});  %e = mul(%a, %d);  %f = cast(%e);  %y = mul(@w, %f)
after:   %y = rms_norm(%x, @w) {eps = eps, offset = 0.0, cast = "before"}

The weight may be applied after the cast back (``cast = "before"``) or before it (``"after"``), may
have a constant added to it (``offset``), or be absent. The operator does what these spellings do,
step by step in float32, so its numbers are theirs. Where the root is spelled in another way, or the
whole norm is computed in bf16 or f16, numbers differ by the rounding that float32 avoids: by 1e-6
in float32, by 2^-6 of the row's greatest element in bf16.

What matches nothing more is raised in the type it is computed in, so no norm is left over.
"""

from __future__ import annotations

from typing import ClassVar

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Value
from graphopt.ledger import Verdict

from .match import Attr, Match, Pattern, Var, either, op
from .norm_pattern import mean, normalizes_rows, over_root, square
from .rules import RewriteRule, RulePass
from .spelling import narrow, wide

_OFFSET = Attr("offset", lambda number: isinstance(number, float), "a number")


def _norm(x: Pattern) -> Pattern:
    """X over its root mean square."""
    return over_root(x, mean(square(x)))


def _offset(weight: Pattern) -> Pattern:
    """The weight with a constant added to it, or as it is."""
    return either(op.add(weight, scalar=_OFFSET), weight)


class _RmsNorm(RewriteRule):
    """A root-mean-square norm of ``x``, with or without a ``weight``."""

    cast: ClassVar[str] = "after"

    def check(self, m: Match) -> Verdict:
        """It is over the last dimension, and keeps x's type."""
        return normalizes_rows(m, ["weight"])

    def near(self, needed: int) -> int:
        """A quotient is no norm nearly; one by the root of a mean is."""
        return max(3, super().near(needed))

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        inputs = [m.x, m.weight] if "weight" in m else [m.x]
        attrs = {"eps": m.get("eps", 0.0), "offset": m.get("offset", 0.0), "cast": self.cast}
        return new.one("rms_norm", inputs, attrs, loc=m.loc)


class RmsNormCastBeforeWeight(_RmsNorm):
    """As in llama: the weight multiplies what was rounded."""

    cast = "before"

    def pattern(self, x: Var, weight: Var) -> Pattern:
        """Weight * round(norm(x))."""
        return op.mul(narrow(_norm(wide(x))), _offset(weight))


class RmsNormCastAfterWeight(_RmsNorm):
    """As in gemma and olmo2: the weight is widened, and the product rounded."""

    def pattern(self, x: Var, weight: Var) -> Pattern:
        """round(norm(x) * (weight + offset))."""
        return narrow(op.mul(_norm(wide(x)), _offset(wide(weight))))


class RmsNormWithoutWeight(_RmsNorm):
    """As of queries and keys in llama4."""

    def pattern(self, x: Var) -> Pattern:
        """round(norm(x))."""
        return narrow(_norm(wide(x)))


class RmsNormInOneType(_RmsNorm):
    """Nothing is cast: a model in float32, or a norm whose result stays in float32."""

    def pattern(self, x: Var, weight: Var) -> Pattern:
        """norm(x) * (weight + offset)."""
        return op.mul(_norm(x), _offset(weight))


class RmsNormAlone(_RmsNorm):
    """What is left: the norm itself, whatever happens before and after."""

    def pattern(self, x: Var) -> Pattern:
        """norm(x)."""
        return _norm(x)


def raise_rms_norm() -> RulePass:
    """The pass. An rsqrt that it leaves is in the ledger; run raise-layer-norm before it."""
    rules = [
        RmsNormCastBeforeWeight(),
        RmsNormCastAfterWeight(),
        RmsNormWithoutWeight(),
        RmsNormInOneType(),
        RmsNormAlone(),
    ]
    return RulePass(
        "raise-rms-norm",
        rules,
        leftovers={"rsqrt": "part of no norm"},
        requires={"layer norms raised"},  # whose inside is an RMS norm of differences
        ensures={"norms raised"},
    )
