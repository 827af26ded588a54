"""Raise a product with an activated gate to one operator.

before:  %a = silu(%gate);  %y = mul(%a, %up)
after:   %y = glu(%gate, %up) {activation = "silu"}

Gate and up may be two linears, or two parts of one. The operator computes in float32 and rounds
once, where the spelled-out form rounds the activated gate too: in float32 numbers are equal but for
1e-6, in bf16 they differ by 2^-7 of the product.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Value
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, refuse

from .match import Match, Pattern, Var, either, op
from .rules import RewriteRule, RulePass
from .spelling import computes_wide, narrow, power, wide

_GATE = Var("gate")


def _activated(gate: Pattern) -> Mapping[str, Pattern]:
    """How the activations of ``glu`` look; a square of one comes before the one itself."""
    return {
        "silu": op.silu(gate),
        "gelu": op.gelu(gate, approximate="none"),
        "gelu_tanh": op.gelu(gate, approximate="tanh"),
        "quick_gelu": op.gelu(gate, approximate="sigmoid"),
        "relu2": power(op.relu(gate), 2),
        "relu": op.relu(gate),
        "sigmoid": op.sigmoid(gate),
        "tanh": op.tanh(gate),
    }


class GatedLinearUnit(RewriteRule):
    """A gate with one of the activations, times something else."""

    def __init__(self, activation: str) -> None:
        self.activation = activation

    @property
    def name(self) -> str:
        """Which activation it is for."""
        return f"glu-{self.activation.replace('_', '-')}"

    def pattern(self, gate: Var, up: Var) -> Pattern:
        """activation(gate) * up, the activation between casts or not."""
        plain = _activated(gate)[self.activation]
        cast = narrow(_activated(wide(gate))[self.activation])
        return op.mul(either(cast, plain), up)

    def near(self, needed: int) -> int:
        """A product alone is no gate nearly."""
        return max(3, super().near(needed))

    def check(self, m: Match) -> Verdict:
        """Gate and up are of one type, and up is not the gate again."""
        activated = {value for node in m.nodes[1:] for value in node.outputs}
        if m.up is m.gate or m.up in activated:
            return refuse("a value times its own activation", m.up)
        if m.gate.type != m.up.type:
            return refuse(f"the gate is {m.gate.type}, and {m.up.type} is gated", m.gate, m.up)
        if not isinstance(m.gate.type, TensorType) or not m.gate.type.dtype.is_float:
            return refuse(f"the gate is {m.gate.type}", m.gate)
        return computes_wide(m, m.gate)

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        return new.one("glu", [m.gate, m.up], {"activation": self.activation}, loc=m.loc)


def raise_glu() -> RulePass:
    """The pass; activations that are written out must have been raised before."""
    return RulePass(
        "raise-glu",
        [GatedLinearUnit(name) for name in _activated(_GATE)],
        requires={"silu raised", "gelu raised"},
    )
