"""Let the embedding scale what it reads.

before:  %e = embed(%ids, @table) {scale = 1.0};  %y = mul(%e) {scalar = 8.0}
after:   %y = embed(%ids, @table) {scale = 8.0}

Each element is multiplied by the same number in float32 and rounded once, as before: no bit
changes. A scale that the model keeps in a tensor is a number after inline-scalars.
"""

from __future__ import annotations

import math

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Value
from graphopt.ledger import Verdict, accept, refuse

from .match import Attr, Match, Pattern, Var, op
from .rules import RewriteRule, RulePass


class EmbeddingScale(RewriteRule):
    """An embedding times a number."""

    def pattern(self, ids: Var, table: Var) -> Pattern:
        """embed(ids, table) * scale."""
        return op.mul(op.embed(ids, table, scale=1.0), scalar=Attr("scale"))

    def check(self, m: Match) -> Verdict:
        """The number is known, and nothing reads the rows as they are."""
        scale = m["scale"]
        if not isinstance(scale, float) or not math.isfinite(scale):
            return refuse(f"the scale is {scale}", m.root.output)
        if plain := m.used_outside():
            return refuse("the embedding is read without its scale too", *plain)
        return accept()

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        """The operator."""
        return new.one("embed", [m.ids, m.table], {"scale": m["scale"]}, loc=m.loc)


def raise_embedding_scale() -> RulePass:
    """The pass."""
    return RulePass("raise-embedding-scale", [EmbeddingScale()])
