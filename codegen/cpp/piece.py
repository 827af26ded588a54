"""A piece of a plan as one C++ function: one parallel region that runs its kernels in order.

before:  steps whose kernels are written
after:   ``piece_BODY(step, a)``, where ``a`` holds each step's operands, results and workspace
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.plan import Piece
from graphopt.plan_arguments import arguments_of

from .kernel import Kernel

_HEAD = """// The kernels of a piece, one after the other in one parallel region, with a barrier after each.
#include "launch.h"

namespace gopt {{
{declarations}
}}  // namespace gopt

extern "C" __attribute__((visibility("default"))) void piece_{body}(
    const gopt::Step* step, void* const* a) {{
  using namespace gopt;
  Barrier shared;
  run_region(*step, shared, [&](Team& team) {{
    const auto run = [&](int number, auto* kernel, void* const* arguments) {{
      if (number < step->first || number >= step->last) return;
      kernel(*step, team, arguments);
      team.barrier();
    }};
{calls}
  }});
}}
"""


def piece_source(piece: Piece, kernels: Mapping[str, Kernel]) -> str:
    """The C++ text of a piece.

    Args:
        piece: its steps are all of this backend.
        kernels: by name; only names are used.
    """
    used = dict.fromkeys(step.kernel for step in piece.steps)
    declarations = "\n".join(
        f"void call_{kernels[name].name}(const Step&, Team&, void* const*);" for name in used
    )
    calls, place = [], 0
    for number, step in enumerate(piece.steps):
        calls.append(f"    run({number}, call_{step.kernel}, a + {place});  // {step.name}")
        place += len(arguments_of(step))
    return _HEAD.format(declarations=declarations, body=piece.body, calls="\n".join(calls))


def scratch_bytes(pieces: Sequence[Piece], kernels: Mapping[str, Kernel]) -> int:
    """Private memory that a thread needs for any of ``pieces``, a multiple of 64."""
    needs = [kernels[step.kernel].scratch_bytes for piece in pieces for step in piece.steps]
    return -(-max(needs, default=0) // 64) * 64
