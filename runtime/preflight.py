"""Does it fit? Bytes that serving will take against bytes that are free, before anything is loaded.

Counted are weights, KV blocks, and the plan's buffers at the largest step. When it does not fit,
the error says which part is how large, and which knob makes it smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from graphopt.errors import MachineError
from graphopt.ir.shape import evaluate
from graphopt.plan import Plan

from .kv_cache import blocks_for
from .scheduler import SchedulerLimits

DEFAULT_KV_BYTES = 4 << 30
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What serving takes, in bytes.

    Attributes:
        weights_bytes: all weights.
        buffers_bytes: the plan's buffers at the largest step.
        kv_bytes: all KV blocks.
        free_bytes: what was free before.
        num_blocks: KV blocks.
    """

    weights_bytes: int
    buffers_bytes: int
    kv_bytes: int
    free_bytes: int
    num_blocks: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.buffers_bytes + self.kv_bytes

    def __str__(self) -> str:
        return (
            f"weights {mib(self.weights_bytes)}, buffers {mib(self.buffers_bytes)}, "
            f"KV {mib(self.kv_bytes)} in {self.num_blocks} blocks; {mib(self.free_bytes)} free"
        )


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
        kv_cache_memory: bytes for KV; None for the smaller of 4 GiB and a quarter of what is free.
        needs_full_context: whether one sequence of ``limits.max_model_len`` must fit KV memory.
        free_memory: how many bytes are free.

    Raises:
        MachineError: it does not fit; a knob is named.
    """
    free = free_memory()
    wanted = min(DEFAULT_KV_BYTES, free // 4) if kv_cache_memory is None else kv_cache_memory
    per_block = max(1, plan.bytes_per_block)
    per_sequence = blocks_for(limits.max_model_len, plan.block_size)
    num_blocks = min(wanted // per_block, limits.max_num_seqs * per_sequence)
    buffers = _buffers_bytes(plan, limits)
    need = MemoryNeed(weights_bytes, buffers, num_blocks * per_block, free, num_blocks)
    _check_blocks(need, plan, wanted, per_sequence if needs_full_context else 1)
    if need.total_bytes > free:
        raise MachineError(
            "the model does not fit into memory",
            got=str(need),
            expected=f"at most {mib(free)}",
            next=_advice(need, kv_cache_memory),
        )
    return need


def _check_blocks(need: MemoryNeed, plan: Plan, wanted: int, least: int) -> None:
    if need.num_blocks >= least:
        return
    least_bytes = least * plan.bytes_per_block
    raise MachineError(
        "KV memory is too small",
        got=f"{mib(wanted)} for {wanted // max(1, plan.bytes_per_block)} blocks",
        expected=f"{mib(least_bytes)} for at least {least} of {plan.block_size} tokens",
        next=f"raise kv_cache_memory to {least_bytes} bytes"
        + (", or lower max_model_len" if least > 1 else ""),
    )


def _buffers_bytes(plan: Plan, limits: SchedulerLimits) -> int:
    sizes = {
        "T": limits.max_num_batched_tokens,
        "S": limits.max_num_seqs,
        "R": limits.max_rows,
        "P": blocks_for(limits.max_model_len, plan.block_size),
    }
    return sum(evaluate(slot.nbytes, sizes) for slot in plan.slots)


def _advice(need: MemoryNeed, kv_cache_memory: int | None) -> str:
    if need.weights_bytes > need.free_bytes:
        return "compile with a smaller dtype, or use a machine with more memory"
    rest = need.free_bytes - need.weights_bytes - need.buffers_bytes
    if rest > 0:
        now = "" if kv_cache_memory is None else f" (now {kv_cache_memory})"
        return f"set kv_cache_memory to at most {rest} bytes{now}"
    return "lower max_num_batched_tokens, which sizes the buffers"
