"""Cut a plan into pieces: consecutive steps that can be captured together.

before:  steps in running order
after:   pieces: a run of steps that can be captured, or of steps that cannot for one reason

On a GPU a step can be captured if what it launches depends on the batch's padded sizes alone;
attention depends on the length of every sequence, so each is a piece of its own, which runs between
captured ones. On a CPU a piece is one compiled function, which PyTorch's steps interrupt. Each cut
says why. Pieces that compute the same on other slots, weights and layers have one body, see
``piece_body``. To have few pieces, the regions are put into order before: see ``order``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.ir.graph import Graph, Node
from graphopt.ir.ops import keeps_state
from graphopt.ir.types import StateType
from graphopt.plan import Piece, Step
from graphopt.region import Region
from graphopt.target import Target

from .order import order_regions
from .piece_body import piece_body

ATTENTION = "attention's work depends on the length of every sequence"
BY_PYTORCH = "PyTorch runs it"

# Why a step of this backend that computes these nodes cannot be captured together with its
# neighbours, in one clause; nothing if it can.
WhyNot = Callable[[str, Sequence[Node]], str]


def why_not_on(target: Target) -> WhyNot:
    """What cannot be captured on ``target``."""
    return _why_not_on_cuda if target.kind == "cuda" else _why_not_on_cpu


def _why_not_on_cuda(backend: str, nodes: Sequence[Node]) -> str:
    if any(_reads_context(node) for node in nodes):
        return ATTENTION
    return BY_PYTORCH if backend == "torch" else ""


def _why_not_on_cpu(backend: str, nodes: Sequence[Node]) -> str:
    return BY_PYTORCH if backend == "torch" else ""


def _reads_context(node: Node) -> bool:
    """Whether a node reads what a state holds of earlier tokens."""
    return not keeps_state(node) and any(isinstance(v.type, StateType) for v in node.inputs)


def in_few_pieces(
    graph: Graph,
    regions: Sequence[Region],
    kernels: Sequence[tuple[str, str]],
    why_not: WhyNot,
) -> tuple[tuple[Region, ...], tuple[tuple[str, str], ...]]:
    """Regions and their kernels in an order that ``partition`` makes the fewest pieces of."""
    kinds = [
        why_not(backend, [graph.nodes[place] for place in region.nodes])
        for region, (backend, _) in zip(regions, kernels, strict=True)
    ]
    ordered = order_regions(graph, regions, kinds, alone={ATTENTION})
    kernel_of = dict(zip(regions, kernels, strict=True))
    return ordered, tuple(kernel_of[region] for region in ordered)


def partition(graph: Graph, steps: Sequence[Step], why_not: WhyNot) -> tuple[Piece, ...]:
    """The pieces that ``steps`` make."""
    runs: list[tuple[str, list[Step]]] = []
    for step in steps:
        reason = why_not(step.backend, [graph.nodes[place] for place in step.nodes])
        if runs and runs[-1][0] == reason != ATTENTION:
            runs[-1][1].append(step)
        else:
            runs.append((reason, [step]))
    pieces = []
    for number, (reason, run) in enumerate(runs):
        cut = "" if number + 1 == len(runs) else _cut(reason, run[-1], *runs[number + 1])
        body = piece_body(graph, run, captured=not reason)
        pieces.append(Piece(f"p{number}", tuple(run), not reason, cut, body))
    return tuple(pieces)


def _cut(reason: str, last: Step, next_reason: str, following: Sequence[Step]) -> str:
    """Why a piece whose last step is ``last`` ends there."""
    if next_reason:
        place, verb, clause = following[0], "follows", next_reason
    else:
        place, verb, clause = last, "ends here", reason
    where, what = place.scope or "the model", place.name or place.kernel
    return f"{where}: {what} {verb} and cannot be captured with its neighbours: {clause}"
