"""What a cubin takes of a GPU, read without one: registers, spills, shared memory, instructions.

The figures are those of NVIDIA's own tools, which come with Triton, and of the code that ships:
registers that were spilled are seen as loads and stores of memory of a thread's own. Only whether
matrix instructions run one after the other is nowhere but in what ``ptxas`` says, so code that has
them is assembled again, as Triton does it.
"""

from __future__ import annotations

import inspect
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
# Stores and loads of memory of a thread's own; kernels have no other use for it than spills.
_OWN = ("STL", "LDL")
_WIDTH = re.compile(r"\.(?:[US]?(8|16)|(64|128))\b")
# Of registers; the version of Triton whose ptxas has a defect passes it, others do not.
_REGISTER_OPTION = "--regAllocOptLevel=2"
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_]+)((?:\.\w+)*)", re.M)


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
        code = Path(folder, "kernel.cubin")
        code.write_bytes(cubin.code)
        usage = _output(_tool("cuobjdump"), "--dump-resource-usage", str(code))
        found = instructions_of(code)
        log = ""
        if any(name in _WGMMA for name, _ in found):
            log = assembled(cubin, Path(folder, "again.cubin"))
    registers = _USAGE.search(usage)
    if registers is None:
        raise CompileError("NVIDIA's tools say nothing of registers", got=usage[-500:])
    loads = [suffix for name, suffix in found if name in ("LDG", "LDGSTS")]
    return Resources(
        registers=int(registers[1]),
        spill_bytes=sum(_bytes(suffix) for name, suffix in found if name in _OWN),
        shared_bytes=cubin.shared_bytes,
        threads=cubin.threads,
        instructions=Counter(name for name, _ in found),
        wide_loads=sum(".128" in suffix for suffix in loads),
        narrow_loads=sum(bool(_NARROW.search(suffix)) for suffix in loads),
        is_serialized="serialized" in log,
        arch=cubin.arch,
    )


def instructions_of(code: Path) -> list[tuple[str, str]]:
    """The opcodes of a cubin and what follows each, such as ``LDG`` and ``.E.128``.

    Raises:
        CompileError: NVIDIA's tool failed.
    """
    return _INSTRUCTION.findall(_output(_tool("nvdisasm"), "-c", str(code)))


def assembled(cubin: Cubin, file: Path) -> str:
    """What ``ptxas`` says while it makes a cubin again, into ``file``.

    Raises:
        CompileError: it failed.
    """
    from triton.backends.nvidia import compiler

    suffix = "a" if cubin.arch >= 90 else ""
    command = [compiler.get_ptxas(cubin.arch).path, "-v", "-lineinfo"]
    if _REGISTER_OPTION in inspect.getsource(compiler):
        command.append(_REGISTER_OPTION)
    ptx = file.with_suffix(".ptx")
    ptx.write_text(cubin.ptx)
    return _output(*command, f"--gpu-name=sm_{cubin.arch}{suffix}", str(ptx), "-o", str(file))


def _bytes(suffix: str) -> int:
    """What an instruction of a thread moves, by what follows its opcode."""
    width = _WIDTH.search(suffix)
    return int(width[1] or width[2]) // 8 if width else 4


def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _output(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise CompileError(f"{Path(command[0]).name} failed", got=(ran.stdout + ran.stderr)[-500:])
    return ran.stdout + ran.stderr
