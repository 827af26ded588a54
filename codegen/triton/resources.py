"""What a cubin takes of a GPU, read without one: registers, spills, shared memory, instructions.

The figures are those of NVIDIA's own tools, which come with Triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import CompileError

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
# Of one multiprocessor: registers, which a warp takes by 256, threads, and programs; shared memory
# is what one program may use and 1 KiB, and each program takes 1 KiB besides its own.
REGISTERS = 65536
RESERVED_BYTES = 1 << 10
THREADS = {80: 2048, 86: 1536, 87: 1536, 89: 1536, 90: 2048, 100: 2048, 103: 2048, 120: 1536}
PROGRAMS = {80: 32, 86: 16, 87: 16, 89: 24, 90: 32, 100: 32, 103: 32, 120: 24}
_WGMMA = ("HGMMA", "QGMMA", "IGMMA")
_TENSOR = (*_WGMMA, "HMMA", "IMMA", "QMMA", "OMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA")
_NARROW = re.compile(r"\.[US](?:8|16)\b")
_USAGE = re.compile(r"REG:(\d+)")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_]+)((?:\.\w+)*)", re.M)


@dataclass(frozen=True, slots=True)
class Resources:
    """What one program of a cubin takes.

    Attributes:
        registers: of each thread.
        spill_bytes: that do not fit into registers: stores and loads.
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
        per_thread = -(-self.registers // 8) * 8
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
    with tempfile.TemporaryDirectory() as folder:
        code, ptx = Path(folder, "kernel.cubin"), Path(folder, "kernel.ptx")
        code.write_bytes(cubin.code)
        ptx.write_text(cubin.ptx)
        usage = _output(_tool("cuobjdump"), "--dump-resource-usage", str(code))
        listing = _output(_tool("nvdisasm"), "-c", str(code))
        log = _output(*_assembler(cubin.arch), str(ptx), "-o", str(Path(folder, "again.cubin")))
    registers, spills = _USAGE.search(usage), _SPILLS.search(log)
    if registers is None or spills is None:
        raise CompileError("NVIDIA's tools say nothing of registers", got=(usage + log)[-500:])
    found = _INSTRUCTION.findall(listing)
    loads = [suffix for name, suffix in found if name in ("LDG", "LDGSTS")]
    return Resources(
        registers=int(registers[1]),
        spill_bytes=int(spills[1]) + int(spills[2]),
        shared_bytes=cubin.shared_bytes,
        threads=cubin.threads,
        instructions=Counter(name for name, _ in found),
        wide_loads=sum(".128" in suffix for suffix in loads),
        narrow_loads=sum(bool(_NARROW.search(suffix)) for suffix in loads),
        is_serialized="serialized" in log,
        arch=cubin.arch,
    )


def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _assembler(arch: int) -> list[str]:
    from triton.backends.nvidia.compiler import get_ptxas

    suffix = "a" if arch >= 90 else ""
    return [get_ptxas(arch).path, "-v", "-lineinfo", f"--gpu-name=sm_{arch}{suffix}"]


def _output(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise CompileError(f"{Path(command[0]).name} failed", got=(ran.stdout + ran.stderr)[-500:])
    return ran.stdout + ran.stderr
