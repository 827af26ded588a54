"""A piece of a plan as one C++ function: one parallel region that runs its kernels in order.

before:  steps whose kernels are written
after:   ``piece_BODY(step, a)``, where ``a`` holds each step's operands, results and workspace
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.plan import Piece
from graphopt.plan_arguments import arguments_of

from ..render import render
from .kernel import Kernel

_TEMPLATE = "cpp/piece.jinja"


def piece_source(piece: Piece) -> str:
    """The C++ text of a piece.

    Args:
        piece: its steps are all of this backend.
    """
    used = dict.fromkeys(step.kernel for step in piece.steps)
    calls, place = [], 0
    for step in piece.steps:
        calls.append({"kernel": step.kernel, "place": place, "scope": step.scope})
        place += len(arguments_of(step))
    return render(_TEMPLATE, body=piece.body, kernels=tuple(used), calls=calls)


def scratch_bytes(pieces: Sequence[Piece], kernels: Mapping[str, Kernel]) -> int:
    """Private memory that a thread needs for any of ``pieces``, a multiple of 64."""
    needs = [kernels[step.kernel].scratch_bytes for piece in pieces for step in piece.steps]
    return -(-max(needs, default=0) // 64) * 64
