"""The numbers that an engine asks an executor for, which the plan says."""

from __future__ import annotations

from graphopt.embedding import Embedding
from graphopt.plan import Plan


class PlanNumbers:
    """What every executor of a plan has.

    Args:
        plan: what is run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @property
    def block_size(self) -> int:
        """KV slots in a block."""
        return self._plan.block_size

    @property
    def bytes_per_block(self) -> int:
        """Bytes of a block over all layers."""
        return self._plan.bytes_per_block

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows; columns of the logits, if it generates."""
        return self._plan.limits.vocab_size

    @property
    def max_rows(self) -> int:
        """Most rows of the output in one step."""
        return self._plan.limits.max_rows

    @property
    def embedding(self) -> Embedding | None:
        """How rows become vectors; None for a plan that generates."""
        return self._plan.embedding
