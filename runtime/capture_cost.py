"""What can be captured of a step, and the bytes that the driver keeps of it.

before:  a plan, how its kernels are launched, and the sizes of a step
after:   whether a piece, or the whole step, can be captured, and an estimate of what that takes

All graphs read the same inputs and compute in the same arena, which is as large as the largest step
needs anyway. So what a graph takes is what the driver keeps of it, which grows with its launches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from graphopt.ir.shape import symbols
from graphopt.launch import LaunchKernel
from graphopt.loop_kernels import ADVANCE, SAMPLE
from graphopt.plan import TRITON, Piece, Plan, Step

from .executors.gpu.sampler import rows_at_once

# What the driver keeps of a captured launch, and of a graph besides. An estimate from above: graphs
# of 500, 1000 and 2000 empty kernels took 362, 395 and 458 MB of a device, 64 KiB a launch
# (forums.developer.nvidia.com/t/244901, driver 470). It is compared with what a capture takes.
LAUNCH_BYTES = 64 << 10
GRAPH_BYTES = 64 << 10

Launches = Mapping[str, LaunchKernel]
Sizes = Mapping[str, int]


def why_not_whole(plan: Plan, launches: Launches, sizes: Sizes) -> str:
    """Why a step of these sizes cannot be captured as a whole, in one clause; nothing if it can."""
    known: set[tuple[str, str]] = set()  # layers share kernels: each is looked at once
    for step in plan.steps():
        if (step.backend, step.kernel) in known:
            continue
        known.add((step.backend, step.kernel))
        if not runs_as_kernel(step, launches, sizes):
            return f"PyTorch runs {step.name or step.kernel} of {step.scope or 'the model'}"
    return ""


def whole_bytes(plan: Plan, launches: Launches, sizes: Sizes) -> int:
    """Estimate of what the graph of a whole step takes."""
    return GRAPH_BYTES + whole_launches(plan, launches, sizes) * LAUNCH_BYTES


def whole_launches(plan: Plan, launches: Launches, sizes: Sizes) -> int:
    """Launches of a whole step, from the tokens of the step before to its own."""
    counts = Counter(step.kernel for step in plan.steps())
    if ADVANCE in launches:
        counts[ADVANCE] = 1
    if SAMPLE in launches:
        counts[SAMPLE] = -(-sizes["R"] // rows_at_once(launches[SAMPLE], sizes["R"]))
    return sum(count * launched(launches[name], sizes) for name, count in counts.items())


def is_captured(piece: Piece, launches: Launches, tokens: int) -> bool:
    """Whether a piece is captured for steps of so many tokens, whatever their other sizes are.

    A piece that depends on more than the number of tokens is launched plainly, such as the last
    one, which makes logits for as many rows as are wanted.
    """
    return piece.captured and all(
        runs_as_kernel(step, launches, {"T": tokens}) and _needs(launches[step.kernel]) <= {"T"}
        for step in piece.steps
    )


def pieces_bytes(plan: Plan, launches: Launches, tokens: int) -> int:
    """Estimate of what the graphs of pieces take together; 0 if no piece can be captured."""
    alike: dict[tuple[object, ...], list[Piece]] = {}  # those of most layers are
    for piece in plan.pieces:
        kernels = ((step.backend, step.kernel) for step in piece.steps)
        alike.setdefault((piece.captured, *kernels), []).append(piece)
    total = 0
    for first, *others in alike.values():
        if is_captured(first, launches, tokens):
            count = sum(launched(launches[step.kernel], {"T": tokens}) for step in first.steps)
            total += (1 + len(others)) * (GRAPH_BYTES + count * LAUNCH_BYTES)
    return total


def runs_as_kernel(step: Step, launches: Launches, sizes: Sizes) -> bool:
    """Whether a step launches kernels at these sizes; PyTorch runs it otherwise."""
    if step.backend != TRITON:
        return False
    kernel = launches[step.kernel]
    return not kernel.variant(known_sizes(kernel, sizes)).library


def launched(kernel: LaunchKernel, sizes: Sizes) -> int:
    """How many launches a kernel makes in a step of these sizes."""
    known = known_sizes(kernel, sizes)
    return sum(all(launch.counts(known)) for launch in kernel.variant(known).launches)


def _needs(kernel: LaunchKernel) -> set[str]:
    """The sizes that what a kernel launches depends on."""
    found = set(kernel.sizes)
    for variant in kernel.variants:
        found.update(variant.below)
        found.update(*(symbols(count) for one in variant.launches for count in one.grid))
    return found


def known_sizes(kernel: LaunchKernel, sizes: Sizes) -> dict[str, int]:
    """The sizes of a step, and 1 for others that a kernel depends on."""
    return {**dict.fromkeys(_needs(kernel), 1), **sizes}
