"""Does it fit a GPU? What serving may take of its memory, and what steps take there.

before:  memory that is free and in all, as the device says; a plan and how its kernels are launched
after:   the room and the bytes that ``preflight`` decides with

Memory that other processes hold is not free, so they count by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.arena import layout
from graphopt.errors import UsageError
from graphopt.launch import LaunchKernel
from graphopt.loop_kernels import SAMPLE
from graphopt.plan import Plan

from .capture_choice import Trace, choose_captures
from .capture_cost import Launches, known_sizes
from .executors.gpu.places import input_offsets
from .executors.gpu.sampler import rows_at_once, sampling_bytes
from .plan_check import REACHES
from .preflight import Room, StepBytes, StepBytesOf
from .scheduler import SchedulerLimits

DEFAULT_UTILIZATION = 0.9
# Of what is free, so much is left for what comes later: code and stacks of kernels, tokens that
# penalties fall on, and what PyTorch takes for a step that has no kernel.
RESERVE_BYTES = 256 << 20


def gpu_room(
    free_bytes: int,
    total_bytes: int,
    utilization: float | None = None,
    kv_cache_memory: int | None = None,
) -> Room:
    """What serving may take of a GPU: its share of all memory, and no more than is free.

    Args:
        free_bytes: what nobody has taken.
        total_bytes: of the GPU.
        utilization: the share, above 0 and at most 1; None for 0.9, or for all that is free if the
            size of KV memory is given.
        kv_cache_memory: bytes for KV, if they are given.

    Raises:
        UsageError: the share is no share.
    """
    if utilization is not None and not 0.0 < utilization <= 1.0:
        raise UsageError(
            "gpu_memory_utilization is a share of the GPU's memory",
            got=utilization,
            expected="more than 0, at most 1",
        )
    if utilization is None:
        utilization = DEFAULT_UTILIZATION if kv_cache_memory is None else 1.0
    most = max(0, free_bytes - RESERVE_BYTES)
    return Room(min(most, int(total_bytes * utilization)), None, most, total_bytes, utilization)


def gpu_step_bytes(plan: Plan, launches: Launches, trace: Trace | None = None) -> StepBytesOf:
    """What a plan's steps take on a GPU, for given limits.

    Args:
        plan: what runs.
        launches: how its kernels are launched.
        trace: what captures are fitted to, see ``choose_captures``.
    """

    def found(limits: SchedulerLimits) -> StepBytes:
        sizes = limits.largest_step(plan.block_size)
        return StepBytes(
            slots=layout(plan, sizes).peak_bytes,
            inputs=_inputs(plan, sizes),
            workspaces=sum(_kept(name, launches[name], sizes) for name in launches),
            graphs=choose_captures(plan, launches, limits, trace).total_bytes,
        )

    return found


def _inputs(plan: Plan, sizes: Mapping[str, int]) -> int:
    """A step's inputs, and what goes into sampling its rows and comes out, if they are sampled."""
    _, inputs = input_offsets(sizes["T"], sizes, reaches=REACHES in plan.inputs)
    if plan.embedding is not None:
        return inputs
    return inputs + sampling_bytes(sizes["R"], plan.limits.vocab_size)


def _kept(name: str, kernel: LaunchKernel, sizes: Mapping[str, int]) -> int:
    """A kernel's workspace, and memory for its programs' descriptors."""
    if name == SAMPLE:
        sizes = {**sizes, "R": rows_at_once(kernel, sizes["R"]), "K": 0}
    known = known_sizes(kernel, sizes)
    descriptors = 0
    for variant in kernel.variants:
        inside = variant.within(known)
        for launch in variant.launches:
            programs = 1
            for count in launch.counts(inside):
                programs *= count
            descriptors = max(descriptors, programs * launch.global_bytes)
    return kernel.workspace_bytes(known) + descriptors
