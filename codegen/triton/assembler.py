"""What NVIDIA's tools say of a cubin, and how many registers to let the assembler take.

``ptxas`` aims at registers so few that one more program fits on a multiprocessor, and keeps in
memory what then has no register: here is what to allow it instead. The tools come with Triton.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import CompileError

# Registers of a multiprocessor, and the most of a thread; threads take them by eights.
REGISTERS, MOST_REGISTERS, REGISTERS_AT_ONCE = 65536, 255, 8
# Bounds that are tried for code that spills: each costs a compilation.
_TRIES = 4
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_]+)((?:\.\w+)*)", re.M)
# Of registers; the version of Triton whose ptxas has a defect passes it, others do not.
_REGISTER_OPTION = "--regAllocOptLevel=2"


@dataclass(frozen=True, slots=True)
class Usage:
    """What a thread takes.

    Attributes:
        registers: as many as the assembler gave it.
        stack_bytes: memory of its own; kernels have no other use for it than spills.
    """

    registers: int
    stack_bytes: int


def usage_of(code: bytes) -> Usage:
    """What a thread of a cubin takes.

    Raises:
        CompileError: NVIDIA's tool failed.
    """
    text = _read(code, "cuobjdump", "--dump-resource-usage")
    found = _USAGE.search(text)
    if found is None:
        raise CompileError("NVIDIA's tools say nothing of registers", got=text[-500:])
    return Usage(int(found[1]), int(found[2]))


def instructions_of(code: bytes) -> list[tuple[str, str]]:
    """The opcodes of a cubin and what follows each, such as ``LDG`` and ``.E.128``.

    Raises:
        CompileError: NVIDIA's tool failed.
    """
    return _INSTRUCTION.findall(_read(code, "nvdisasm", "-c"))


def assembled(ptx: str, arch: int) -> tuple[bytes, str]:
    """The cubin that Triton makes of ``ptx``, and what ``ptxas`` says while it is made.

    Raises:
        CompileError: it failed.
    """
    from triton.backends.nvidia import compiler

    command = [compiler.get_ptxas(arch).path, "-v", "-lineinfo"]
    if _REGISTER_OPTION in inspect.getsource(compiler):
        command.append(_REGISTER_OPTION)
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        name = f"sm_{arch}{'a' if arch >= 90 else ''}"
        log = _output(*command, f"--gpu-name={name}", str(source), "-o", str(made))
        return made.read_bytes(), log


def bounds(registers: int, threads: int) -> Sequence[int]:
    """Registers of a thread to allow where ``registers`` are too few: a few more, then ever more.

    Those between are as many as so many programs leave each other; the last are the most that
    there can be. More is not always better: some code spills with 200 that does not with 176.

    Args:
        registers: of a thread, as the assembler chose them.
        threads: of a program.
    """
    taken = -(-registers // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE
    programs = REGISTERS // (taken * threads)
    most = _most(threads, 1)
    levels = {_most(threads, count) for count in range(1, programs + 1)}
    few = min(taken + REGISTERS_AT_ONCE, most)
    wider = sorted(one for one in {few, *levels} if one > taken)
    return wider if len(wider) <= _TRIES else [*wider[: _TRIES - 1], wider[-1]]


def _most(threads: int, programs: int) -> int:
    """The most registers of a thread with which so many programs fit."""
    each = REGISTERS // (threads * programs)
    return min(MOST_REGISTERS, each // REGISTERS_AT_ONCE * REGISTERS_AT_ONCE)


def _read(code: bytes, tool: str, option: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        return _output(str(path), option, file.name)


def _output(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise CompileError(f"{Path(command[0]).name} failed", got=(ran.stdout + ran.stderr)[-500:])
    return ran.stdout + ran.stderr
