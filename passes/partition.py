"""Cut a plan into pieces: consecutive steps that can be captured together.

before:  steps in running order
after:   pieces; a step that cannot be captured stands alone between two that can

A step can be captured if what it launches depends on the batch's padded shape alone. Attention's
work depends on the length of every sequence, so a mixed batch cannot replay it. Each cut says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Graph
from graphopt.plan import Piece, Step

BEFORE_ATTENTION = "{scope}: attention follows, and its work depends on each sequence's length"
AFTER_ATTENTION = "{scope}: attention stands alone, because its work depends on sequence lengths"


def partition(graph: Graph, steps: Sequence[Step]) -> tuple[Piece, ...]:
    """The pieces that ``steps`` make."""
    runs: list[tuple[bool, list[Step]]] = []
    for step in steps:
        alone = any(graph.nodes[position].op == "attention" for position in step.nodes)
        if alone or not runs or not runs[-1][0]:
            runs.append((not alone, [step]))
        else:
            runs[-1][1].append(step)
    pieces = []
    for number, (captured, run) in enumerate(runs):
        cut = ""
        if number + 1 < len(runs):
            sentence, where = (BEFORE_ATTENTION, runs[number + 1][1][0])
            if not captured:
                sentence, where = (AFTER_ATTENTION, run[0])
            cut = sentence.format(scope=where.scope or "the model")
        pieces.append(Piece(f"p{number}", tuple(run), captured, cut))
    return tuple(pieces)
