"""The layouts of a plan's arena, each worked out once.

A layout holds for all smaller sizes, so steps of many sizes share one; which, their executor says.
"""

from __future__ import annotations

from graphopt.arena import Layout, layout
from graphopt.plan import Plan


class Layouts:
    """Layouts of one plan, by the largest T, R and S that they hold for.

    Args:
        plan: whose.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[tuple[int, int, int], Layout] = {}

    def at(self, tokens: int, rows: int, sequences: int) -> Layout:
        """The layout for steps up to so many tokens, rows of logits and sequences."""
        key = (tokens, rows, sequences)
        found = self._known.get(key)
        if found is None:
            # No slot but the block tables depends on P, and those are an input.
            sizes = {"T": tokens, "R": rows, "S": sequences, "P": 1}
            found = self._known[key] = layout(self._plan, sizes)
        return found


def power_of_two_from(count: int) -> int:
    """The least power of two that is at least ``count``."""
    return 1 << max(0, count - 1).bit_length()
