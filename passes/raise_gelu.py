"""Raise a GELU that is written out to one operator.

before:  %a = mul(pow(%x) {scalar = 3.0}) {scalar = 0.044715};  %b = add(%x, %a)
         %t = tanh(mul(%b) {scalar = 0.79788})
         %y = mul(mul(%x) {scalar = 0.5}, add(%t) {scalar = 1.0})
after:   %y = gelu(%x) {approximate = "tanh"}

Also the exact form with erf (``approximate = "none"``) and x * sigmoid(1.702 * x) (``"sigmoid"``),
with the factors in any order, and computed in float32 between casts. The operator computes in
float32 and rounds once: in float32 numbers differ by 1e-6 of |x|, in bf16 by what the roundings in
between had lost, up to 2^-6 of |x|.
"""

from __future__ import annotations

import math

from .match import Pattern, either, op
from .rules import RulePass
from .spelling import activation_rules, power, product, scaled

_SLOPE = math.sqrt(2 / math.pi)
_CUBIC = 0.044715
_STEEPNESS = 1.702


def _half(x: Pattern, curve: Pattern) -> Pattern:
    """0.5 * x * (1 + curve)."""
    return product([x, op.add(curve, scalar=1.0)], 0.5)


def _with_tanh(x: Pattern) -> Pattern:
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))), the cubic factored or not."""
    cube = either(scaled(power(x, 3), _CUBIC), product([x, x, x], _CUBIC))
    square = either(scaled(power(x, 2), _CUBIC), product([x, x], _CUBIC))
    return _half(
        x,
        op.tanh(
            either(
                scaled(op.add(x, cube), _SLOPE),
                product([x, op.add(square, scalar=1.0)], _SLOPE),
            )
        ),
    )


def _with_erf(x: Pattern) -> Pattern:
    """0.5 * x * (1 + erf(x / sqrt(2)))."""
    return _half(x, op.erf(scaled(x, math.sqrt(0.5))))


def _with_sigmoid(x: Pattern) -> Pattern:
    """X * sigmoid(1.702 * x)."""
    return op.mul(x, op.sigmoid(scaled(x, _STEEPNESS)))


def raise_gelu() -> RulePass:
    """The pass."""
    rules = [
        *activation_rules("gelu-with-tanh", [_with_tanh], "gelu", {"approximate": "tanh"}),
        *activation_rules("gelu-with-erf", [_with_erf], "gelu", {"approximate": "none"}),
        *activation_rules("gelu-with-sigmoid", [_with_sigmoid], "gelu", {"approximate": "sigmoid"}),
    ]
    return RulePass(
        "raise-gelu", rules, leftovers={"erf": "part of no gelu"}, ensures={"gelu raised"}
    )
