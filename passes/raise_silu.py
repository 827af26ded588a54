"""Raise a value times its sigmoid to one operator.

before:  %s = sigmoid(%x);  %y = mul(%x, %s)
after:   %y = silu(%x)

Also x / (1 + exp(-x)), and both in float32 between casts. The operator computes in float32 and
rounds once: in float32 numbers differ by 1e-6 of |x|, in bf16 by 2^-7 of |x|.
"""

from __future__ import annotations

from .match import Pattern, op
from .rules import RulePass
from .spelling import activation_rules


def _with_sigmoid(x: Pattern) -> Pattern:
    """X * sigmoid(x)."""
    return op.mul(x, op.sigmoid(x))


def _with_exp(x: Pattern) -> Pattern:
    """X / (1 + exp(-x))."""
    return op.div(x, op.add(op.exp(op.neg(x)), scalar=1.0))


def raise_silu() -> RulePass:
    """The pass."""
    return RulePass(
        "raise-silu",
        activation_rules("silu", [_with_sigmoid, _with_exp], "silu"),
        ensures={"silu raised"},
    )
