"""Does it fit? Bytes that serving will take against bytes that may be taken, before it is loaded.

before:  a plan, the size of its weights, what a step may hold, and how much memory there is
after:   how many KV blocks there will be, or which knob to turn, with a value for which it fits

Counted are weights, the arena of slots at the largest step, on a GPU also what kernels and graphs
keep (see ``preflight_gpu``), and KV blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from graphopt.arena import layout
from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.plan import Plan

from .kv_cache import blocks_for
from .scheduler import SchedulerLimits

DEFAULT_KV_BYTES = 4 << 30
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that serving may take.

    Attributes:
        free_bytes: all of it.
        kv_bytes: most of it that KV takes by itself; None for what the rest leaves.
        most_bytes: what it could be with another ``gpu_memory_utilization``.
        total_bytes: of the GPU, whoever has it; 0 for the host.
        utilization: the share of ``total_bytes`` that may be taken.
    """

    free_bytes: int
    kv_bytes: int | None
    most_bytes: int
    total_bytes: int = 0
    utilization: float = 0.0

    def __str__(self) -> str:
        if not self.total_bytes:
            return f"{mib(self.free_bytes)} free"
        share = f"gpu_memory_utilization {self.utilization:g}"
        return f"{mib(self.free_bytes)} of the GPU's {mib(self.total_bytes)} to take ({share})"


@dataclass(frozen=True, slots=True)
class StepBytes:
    """What steps take besides weights and KV, in bytes, when they are as large as they may be.

    Attributes:
        slots: the arena of the plan's slots.
        inputs: memory that graphs read a step's inputs from, which stays in one place.
        workspaces: what kernels keep for themselves.
        graphs: what the driver keeps of captured launches; an estimate.
    """

    slots: int
    inputs: int = 0
    workspaces: int = 0
    graphs: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.slots + self.inputs + self.workspaces + self.graphs


StepBytesOf = Callable[[SchedulerLimits], StepBytes]


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What serving takes.

    Attributes:
        weights_bytes: all weights, be they read from their files or from a copy: a file's pages may
            go, but come back with the next token.
        step_bytes: what steps take.
        kv_bytes: all KV blocks.
        room: what there was before.
        num_blocks: KV blocks.
        block_size: tokens in one.
        limits: what a step may hold.
    """

    weights_bytes: int
    step_bytes: StepBytes
    kv_bytes: int
    room: Room
    num_blocks: int
    block_size: int
    limits: SchedulerLimits

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.step_bytes.total + self.kv_bytes

    @property
    def left_bytes(self) -> int:
        """What is left for KV blocks; negative if the rest does not fit."""
        return self.room.free_bytes - (self.total_bytes - self.kv_bytes)

    def parts(self) -> tuple[tuple[str, int, str], ...]:
        """Each part with its bytes and what it is for; those of a GPU only if there are any."""
        step = f"{self.limits.max_num_batched_tokens} tokens, {self.limits.max_num_seqs} sequences"
        on_gpu = (
            ("inputs", self.step_bytes.inputs, "in one place, for graphs to read them"),
            ("workspaces", self.step_bytes.workspaces, "what kernels keep for themselves"),
            ("graphs", self.step_bytes.graphs, "captured launches, an estimate"),
        )
        return (
            ("weights", self.weights_bytes, ""),
            ("slots", self.step_bytes.slots, f"a step of {step}"),
            *(part for part in on_gpu if part[1]),
            ("KV", self.kv_bytes, f"{self.num_blocks} blocks of {self.block_size} tokens"),
        )

    def rows(self) -> tuple[tuple[str, int, str], ...]:
        """The parts, then the sum and what may be taken."""
        return (
            *self.parts(),
            ("in all", self.total_bytes, ""),
            ("free", self.room.free_bytes, ""),
        )

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {mib(nbytes)}" for name, nbytes, _ in self.parts())
        return f"{parts} in {self.num_blocks} blocks; {self.room}"


def mib(nbytes: int) -> str:
    """Bytes as text for people."""
    return f"{nbytes / (1 << 20):,.1f} MiB" if nbytes >= 1 << 20 else f"{nbytes:,} bytes"


def free_memory_bytes() -> int:
    """Memory that this process may still take: the machine's, or its control group's if less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        if limit != "max":
            free = min(free, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass  # no control group, or one of another version: the machine's number stands
    return free


def host_room(free_bytes: int | None = None) -> Room:
    """What serving on a CPU may take; measured if not given.

    KV takes the smallest of 4 GiB, a quarter of it, and what the rest leaves.
    """
    free = free_memory_bytes() if free_bytes is None else free_bytes
    return Room(free, min(DEFAULT_KV_BYTES, free // 4), free)


def memory_need(
    plan: Plan,
    weights_bytes: int,
    limits: SchedulerLimits,
    *,
    room: Room,
    kv_cache_memory: int | None = None,
    step_bytes: StepBytesOf | None = None,
) -> MemoryNeed:
    """What serving takes, whether it fits or not. Arguments as for ``preflight``."""
    step = (step_bytes or host_step_bytes(plan))(limits)
    left = max(0, room.free_bytes - weights_bytes - step.total)
    default = left if room.kv_bytes is None else min(room.kv_bytes, left)
    wanted = default if kv_cache_memory is None else kv_cache_memory
    per_block = max(1, plan.bytes_per_block)
    per_sequence = blocks_for(limits.max_model_len, plan.block_size)
    most = limits.max_num_seqs * per_sequence
    if plan.embedding is not None:
        most = min(most, _blocks_of_texts(plan, limits))
    num_blocks = min(wanted // per_block, most)
    return MemoryNeed(
        weights_bytes, step, num_blocks * per_block, room, num_blocks, plan.block_size, limits
    )


def _blocks_of_texts(plan: Plan, limits: SchedulerLimits) -> int:
    """The most blocks that texts hold which become vectors: those of two steps on their way.

    A text leaves with its last token, so that only one of a step goes on, if any does.
    """
    step = blocks_for(limits.max_num_batched_tokens, plan.block_size) + limits.max_num_seqs
    return 2 * (step + blocks_for(limits.max_model_len, plan.block_size))


def host_step_bytes(plan: Plan) -> StepBytesOf:
    """What a plan's steps take on a CPU."""
    return lambda limits: StepBytes(layout(plan, limits.largest_step(plan.block_size)).peak_bytes)


def preflight(
    plan: Plan,
    weights_bytes: int,
    limits: SchedulerLimits,
    *,
    kv_cache_memory: int | None = None,
    needs_full_context: bool = False,
    room: Room | None = None,
    step_bytes: StepBytesOf | None = None,
) -> MemoryNeed:
    """Decide how many KV blocks there will be, and demand that everything fits.

    Args:
        plan: the compiled model.
        weights_bytes: size of the weights.
        limits: what a step and the scheduler may hold.
        kv_cache_memory: bytes for KV; None for as many as suit the room.
        needs_full_context: whether one sequence of ``limits.max_model_len`` must fit KV memory.
        room: what may be taken; the host's free memory if None.
        step_bytes: what steps of given limits take; as on a CPU if None.

    Raises:
        MachineError: it does not fit; a knob is named.
    """
    room = host_room() if room is None else room
    step_bytes = step_bytes or host_step_bytes(plan)
    need = memory_need(
        plan,
        weights_bytes,
        limits,
        room=room,
        kv_cache_memory=kv_cache_memory,
        step_bytes=step_bytes,
    )
    least = blocks_for(limits.max_model_len, plan.block_size) if needs_full_context else 1
    least_bytes = least * plan.bytes_per_block
    if need.left_bytes < max(least_bytes, need.kv_bytes):
        raise MachineError(
            "the model does not fit into memory",
            got=str(need),
            expected=f"at most {mib(room.free_bytes)}, with {mib(least_bytes)} or more for KV",
            next=_advice(plan, need, step_bytes, least),
        )
    if need.num_blocks < least:
        fitting = need.num_blocks * plan.block_size
        raise MachineError(
            "KV memory is too small",
            got=f"{mib(need.kv_bytes if kv_cache_memory is None else kv_cache_memory)} "
            f"for {need.num_blocks} blocks",
            expected=f"{mib(least_bytes)} for at least {least} of {plan.block_size} tokens",
            next=f"raise kv_cache_memory to {least_bytes} bytes"
            + (f", or lower max_model_len to {fitting}" if fitting else ""),
        )
    return need


def _advice(plan: Plan, need: MemoryNeed, step_bytes: StepBytesOf, least: int) -> str:
    """A knob and a value for which ``least`` KV blocks fit beside the rest."""
    limits, room = need.limits, need.room
    least_bytes = least * plan.bytes_per_block
    if need.left_bytes >= least_bytes:
        return f"lower kv_cache_memory to {need.left_bytes} bytes (now {need.kv_bytes})"
    least_need = need.weights_bytes + need.step_bytes.total + least_bytes
    if least_need <= room.most_bytes:
        shares = (percent / 100 for percent in range(1, 101))
        share = next(one for one in shares if int(room.total_bytes * one) >= least_need)
        return f"raise gpu_memory_utilization to {share:g} (now {room.utilization:g})"
    fitting = max(0, need.left_bytes // max(1, plan.bytes_per_block)) * plan.block_size
    if fitting:
        return f"lower max_model_len to {fitting} (now {limits.max_model_len})"
    budget = room.free_bytes - need.weights_bytes - least_bytes

    def fits(tokens: int) -> bool:
        sequences = min(limits.max_num_seqs, tokens)
        smaller = replace(limits, max_num_batched_tokens=tokens, max_num_seqs=sequences)
        return step_bytes(smaller).total <= budget

    tokens = _largest(fits, limits.max_num_batched_tokens)
    if tokens >= limits.max_num_seqs:
        now = f"(now {limits.max_num_batched_tokens})"
        return f"lower max_num_batched_tokens to {tokens} {now}, which sizes the slots"
    if tokens:
        return f"lower max_num_batched_tokens and max_num_seqs to {tokens}"
    machine = "GPU" if room.total_bytes else "machine"
    if plan.dtype is DType.F32:
        halved = f"its weights take about {mib(need.weights_bytes // 2)}"
        return (
            f"compile with dtype bfloat16, in which {halved}, or use a {machine} with more memory"
        )
    smallest = replace(limits, max_num_batched_tokens=1, max_num_seqs=1)
    most = need.weights_bytes + step_bytes(smallest).total + least_bytes
    return f"use a {machine} with {mib(most)} free, which is what a single token takes"


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` that fits; 0 if none. What is below one fits if it does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low
