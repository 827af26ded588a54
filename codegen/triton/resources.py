"""What a cubin takes of a GPU, read without one: registers, spills, shared memory, instructions.

The figures are those of NVIDIA's own tools, for the code that ships: registers that were spilled
are seen as loads and stores of memory of a thread's own. Only whether matrix instructions run one
after the other is nowhere but in what ``ptxas`` says, so code that has them is assembled again, as
Triton does it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from .assembler import REGISTERS, REGISTERS_AT_ONCE, assembled, instructions_of, usage_of
from .compile import Cubin

# Shared memory that one program may use, in bytes, by architecture.
SHARED_BYTES = {
    80: 163 << 10,
    86: 99 << 10,
    87: 163 << 10,
    89: 99 << 10,
    90: 227 << 10,
    100: 227 << 10,
    103: 227 << 10,
    120: 99 << 10,
    121: 99 << 10,
}
# Of one multiprocessor: threads and programs; its shared memory is what one program may use and
# 1 KiB, and each program takes 1 KiB besides its own.
RESERVED_BYTES = 1 << 10
THREADS = {80: 2048, 86: 1536, 87: 1536, 89: 1536, 90: 2048, 100: 2048, 103: 2048, 120: 1536}
PROGRAMS = {80: 32, 86: 16, 87: 16, 89: 24, 90: 32, 100: 32, 103: 32, 120: 24}
_WGMMA = ("HGMMA", "QGMMA", "IGMMA")
_TENSOR = (*_WGMMA, "HMMA", "IMMA", "QMMA", "OMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA")
_NARROW = re.compile(r"\.[US](?:8|16)\b")
# Stores and loads of memory of a thread's own; kernels have no other use for it than spills.
_OWN = ("STL", "LDL")
_WIDTH = re.compile(r"\.(?:[US]?(8|16)|(64|128))\b")


@dataclass(frozen=True, slots=True)
class Resources:
    """What one program of a cubin takes.

    Attributes:
        registers: of each thread.
        spill_bytes: that the code stores and loads because they do not fit into registers.
        shared_bytes: of shared memory.
        threads: of the program.
        instructions: how often each opcode occurs.
        wide_loads: loads of global memory that take 16 bytes a thread.
        narrow_loads: those that take less than 4.
        is_serialized: whether ``ptxas`` gave up running matrix instructions asynchronously.
        arch: such as 90.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    threads: int
    instructions: Counter[str]
    wide_loads: int
    narrow_loads: int
    is_serialized: bool
    arch: int

    @property
    def has_wgmma(self) -> bool:
        """Whether it multiplies matrices by whole warp groups."""
        return any(self.instructions[name] for name in _WGMMA)

    @property
    def has_tensor_cores(self) -> bool:
        """Whether it multiplies matrices on tensor cores."""
        return any(self.instructions[name] for name in _TENSOR)

    @property
    def programs(self) -> int:
        """How many programs one multiprocessor holds at once."""
        per_thread = -(-self.registers // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE
        by_registers = REGISTERS // max(1, per_thread * self.threads)
        by_threads = THREADS.get(self.arch, 1536) // self.threads
        capacity = SHARED_BYTES.get(self.arch, 99 << 10) + RESERVED_BYTES
        by_shared = capacity // (self.shared_bytes + RESERVED_BYTES)
        return min(by_registers, by_threads, by_shared, PROGRAMS.get(self.arch, 16))

    def problems(self) -> list[str]:
        """What must not ship, in words; empty if nothing."""
        limit = SHARED_BYTES.get(self.arch, 99 << 10)
        found = []
        if self.spill_bytes:
            found.append(f"{self.spill_bytes} bytes of registers are spilled")
        if self.is_serialized:
            found.append("its matrix instructions run one after the other")
        if self.shared_bytes > limit:
            found.append(f"it takes {self.shared_bytes} bytes of shared memory of {limit}")
        return found


def resources_of(cubin: Cubin) -> Resources:
    """What a cubin takes.

    Raises:
        CompileError: one of NVIDIA's tools failed.
    """
    found = instructions_of(cubin.code)
    log = ""
    if any(name in _WGMMA for name, _ in found):
        _, log = assembled(cubin.ptx, cubin.arch)
    loads = [suffix for name, suffix in found if name in ("LDG", "LDGSTS")]
    return Resources(
        registers=usage_of(cubin.code).registers,
        spill_bytes=sum(_bytes(suffix) for name, suffix in found if name in _OWN),
        shared_bytes=cubin.shared_bytes,
        threads=cubin.threads,
        instructions=Counter(name for name, _ in found),
        wide_loads=sum(".128" in suffix for suffix in loads),
        narrow_loads=sum(bool(_NARROW.search(suffix)) for suffix in loads),
        is_serialized="serialized" in log,
        arch=cubin.arch,
    )


def _bytes(suffix: str) -> int:
    """What an instruction of a thread moves, by what follows its opcode."""
    width = _WIDTH.search(suffix)
    return int(width[1] or width[2]) // 8 if width else 4
