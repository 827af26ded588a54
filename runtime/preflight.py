"""Does it fit? Bytes that serving will take against bytes that are free, before anything is loaded.

Counted are weights, the arena of slots at the largest step, what captured pieces keep for each
other, and KV blocks. When it does not fit, the error says which part is how large, and names a knob
with a value for which it does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from graphopt.arena import layout
from graphopt.errors import MachineError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import evaluate
from graphopt.plan import Plan
from graphopt.target import Target

from .kv_cache import blocks_for
from .scheduler import SchedulerLimits

DEFAULT_KV_BYTES = 4 << 30
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What serving takes, in bytes.

    Attributes:
        weights_bytes: all weights, be they read from their files or from a copy: a file's pages may
            go, but come back with the next token.
        slots_bytes: the arena of the plan's slots at the largest step.
        capture_bytes: the inputs that captured pieces read, which have to stay in one place; 0 for
            a plan without them. Captures of all sizes share them and the arena.
        kv_bytes: all KV blocks.
        free_bytes: what was free before.
        num_blocks: KV blocks.
        block_size: tokens in one.
        step_tokens: tokens in the largest step.
        step_sequences: sequences in it.
    """

    weights_bytes: int
    slots_bytes: int
    capture_bytes: int
    kv_bytes: int
    free_bytes: int
    num_blocks: int
    block_size: int
    step_tokens: int
    step_sequences: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.slots_bytes + self.capture_bytes + self.kv_bytes

    @property
    def left_bytes(self) -> int:
        """What is left for KV blocks; negative if the rest does not fit."""
        return self.free_bytes - (self.total_bytes - self.kv_bytes)

    def rows(self) -> tuple[tuple[str, int, str], ...]:
        """Each part with its bytes and what it is for, then the sum and what is free."""
        step = f"a step of {self.step_tokens} tokens, {self.step_sequences} sequences"
        captured = "inputs of captured pieces" if self.capture_bytes else "nothing is captured"
        return (
            ("weights", self.weights_bytes, ""),
            ("slots", self.slots_bytes, step),
            ("capture", self.capture_bytes, captured),
            ("KV", self.kv_bytes, f"{self.num_blocks} blocks of {self.block_size} tokens"),
            ("in all", self.total_bytes, ""),
            ("free", self.free_bytes, ""),
        )

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {mib(nbytes)}" for name, nbytes, _ in self.rows()[:4])
        return f"{parts} in {self.num_blocks} blocks; {mib(self.free_bytes)} free"


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


def memory_need(
    plan: Plan,
    weights_bytes: int,
    limits: SchedulerLimits,
    *,
    kv_cache_memory: int | None = None,
    free_bytes: int,
) -> MemoryNeed:
    """What serving takes, whether it fits or not. Arguments as for ``preflight``."""
    tokens = limits.max_num_batched_tokens
    slots, capture = _step_bytes(plan, limits)
    left = max(0, free_bytes - weights_bytes - slots - capture)
    default = min(DEFAULT_KV_BYTES, free_bytes // 4, left)
    wanted = default if kv_cache_memory is None else kv_cache_memory
    per_block = max(1, plan.bytes_per_block)
    per_sequence = blocks_for(limits.max_model_len, plan.block_size)
    num_blocks = min(wanted // per_block, limits.max_num_seqs * per_sequence)
    return MemoryNeed(
        weights_bytes=weights_bytes,
        slots_bytes=slots,
        capture_bytes=capture,
        kv_bytes=num_blocks * per_block,
        free_bytes=free_bytes,
        num_blocks=num_blocks,
        block_size=plan.block_size,
        step_tokens=tokens,
        step_sequences=limits.max_num_seqs,
    )


def preflight(
    plan: Plan,
    weights_bytes: int,
    limits: SchedulerLimits,
    *,
    kv_cache_memory: int | None = None,
    needs_full_context: bool = False,
    free_memory: Callable[[], int] = free_memory_bytes,
) -> MemoryNeed:
    """Decide how many KV blocks there will be, and demand that everything fits.

    Args:
        plan: the compiled model.
        weights_bytes: size of the weights.
        limits: what a step and the scheduler may hold.
        kv_cache_memory: bytes for KV; None for the smallest of 4 GiB, a quarter of what is free,
            and what the rest leaves.
        needs_full_context: whether one sequence of ``limits.max_model_len`` must fit KV memory.
        free_memory: how many bytes are free.

    Raises:
        MachineError: it does not fit; a knob is named.
    """
    need = memory_need(
        plan, weights_bytes, limits, kv_cache_memory=kv_cache_memory, free_bytes=free_memory()
    )
    least = blocks_for(limits.max_model_len, plan.block_size) if needs_full_context else 1
    least_bytes = least * plan.bytes_per_block
    if need.left_bytes < max(least_bytes, need.kv_bytes):
        raise MachineError(
            "the model does not fit into memory",
            got=str(need),
            expected=f"at most {mib(need.free_bytes)}, with {mib(least_bytes)} or more for KV",
            next=_advice(plan, need, limits, least),
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


def _advice(plan: Plan, need: MemoryNeed, limits: SchedulerLimits, least: int) -> str:
    """A knob and a value for which ``least`` KV blocks fit beside the rest."""
    least_bytes = least * plan.bytes_per_block
    if need.left_bytes >= least_bytes:
        return f"lower kv_cache_memory to {need.left_bytes} bytes (now {need.kv_bytes})"
    fitting = max(0, need.left_bytes // max(1, plan.bytes_per_block)) * plan.block_size
    if fitting:
        return f"lower max_model_len to {fitting} (now {limits.max_model_len})"
    budget = need.free_bytes - need.weights_bytes - least_bytes

    def fits(tokens: int) -> bool:
        sequences = min(limits.max_num_seqs, tokens)
        smaller = replace(limits, max_num_batched_tokens=tokens, max_num_seqs=sequences)
        return sum(_step_bytes(plan, smaller)) <= budget

    tokens = _largest(fits, limits.max_num_batched_tokens)
    if tokens >= limits.max_num_seqs:
        now = f"(now {limits.max_num_batched_tokens})"
        return f"lower max_num_batched_tokens to {tokens} {now}, which sizes the slots"
    if tokens:
        return f"lower max_num_batched_tokens and max_num_seqs to {tokens}"
    if plan.dtype is DType.F32:
        halved = f"its weights take about {mib(need.weights_bytes // 2)}"
        return f"compile with dtype bfloat16, in which {halved}, or use a machine with more memory"
    smallest = replace(limits, max_num_batched_tokens=1, max_num_seqs=1)
    most = need.weights_bytes + sum(_step_bytes(plan, smallest)) + least_bytes
    return f"use a machine with {mib(most)} free, which is what a single token takes"


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


def _step_bytes(plan: Plan, limits: SchedulerLimits) -> tuple[int, int]:
    """Bytes of the arena at the largest step, and of the inputs that captured pieces keep."""
    sizes = {
        "T": limits.max_num_batched_tokens,
        "S": limits.max_num_seqs,
        "R": min(limits.max_rows, limits.max_num_batched_tokens),
        "P": blocks_for(limits.max_model_len, plan.block_size),
    }
    captured = Target.parse(plan.target).kind == "cuda"
    inputs = [evaluate(plan.slots[slot].nbytes, sizes) for slot in plan.inputs.values()]
    return layout(plan, sizes).peak_bytes, sum(inputs) if captured else 0
