"""A process that compiles variants one after another: jobs come by lines, answers leave by lines.

before:  a line of JSON on stdin: a kernel, one of its variants, an architecture, and a file
after:   the file, with the cubin and what it takes; a line on stdout that says so, or why not

Triton is not made for threads, and decides once for a process whether it compiles at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import CompileError, GraphoptError
from graphopt.ir.dtype import DType
from graphopt.ir.shape import parse_dim

from .kernel import TritonKernel, Variant


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled variant and what it takes.

    Attributes:
        code: the cubin.
        symbol: the function's name in it.
        threads: of one program.
        shared_bytes: of one program.
        global_bytes: of one program's descriptors.
        global_alignment: of those.
        registers: of one thread.
        spill_bytes: of registers that lie in memory.
        programs: that a multiprocessor holds.
        wide_loads: loads of 16 bytes.
        narrow_loads: loads of less than 4.
        has_tensor_cores: whether it uses them.
        problems: what should not ship, in words.
        has_wgmma: whether whole warp groups multiply.
    """

    code: bytes
    symbol: str
    threads: int
    shared_bytes: int
    global_bytes: int
    global_alignment: int
    registers: int
    spill_bytes: int
    programs: int
    wide_loads: int
    narrow_loads: int
    has_tensor_cores: bool
    problems: tuple[str, ...]
    has_wgmma: bool = False


FAILED = ".error"
# Signs that a compiler was killed by a signal, or had no room.
_PASSING = ("error code -", "No space left", "Cannot allocate memory")
FIELDS = tuple(name for name in Built.__slots__ if name not in ("code", "problems"))


def job_to_json(kernel: TritonKernel, variant: Variant) -> dict[str, Any]:
    """A kernel and a variant as plain data; what only matters when launching is left out."""
    return {
        "name": kernel.name,
        "text": kernel.text,
        "pointers": [dtype.value if dtype else None for dtype in kernel.pointers],
        "sizes": list(kernel.sizes),
        "workspace": str(kernel.workspace),
        "function": variant.function,
        "constants": dict(variant.constants),
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
    }


def job_from_json(data: Mapping[str, Any]) -> tuple[TritonKernel, Variant]:
    """What ``job_to_json`` wrote."""
    variant = Variant(
        data["function"],
        data["constants"],
        num_warps=data["num_warps"],
        num_stages=data["num_stages"],
    )
    pointers = tuple(DType(one) if one else None for one in data["pointers"])
    sizes, workspace = tuple(data["sizes"]), parse_dim(data["workspace"])
    kernel = TritonKernel(data["name"], data["text"], pointers, sizes, (variant,), workspace)
    return kernel, variant


def build(kernel: TritonKernel, variant: Variant, arch: int) -> Built:
    """Compile a variant and read what it takes.

    Raises:
        MachineError: Triton is not installed.
        CompileError: it does not compile.
    """
    from .compile import compile_variant
    from .resources import resources_of

    cubin = compile_variant(kernel, variant, arch)
    taken = resources_of(cubin)
    return Built(
        cubin.code,
        cubin.symbol,
        cubin.threads,
        cubin.shared_bytes,
        cubin.global_bytes,
        cubin.global_alignment,
        taken.registers,
        taken.spill_bytes,
        taken.programs,
        taken.wide_loads,
        taken.narrow_loads,
        taken.has_tensor_cores,
        tuple(taken.problems()),
        taken.has_wgmma,
    )


def write(built: Built, file: Path) -> None:
    """Keep a compiled variant; the file appears whole or not at all."""
    facts = {name: getattr(built, name) for name in FIELDS}
    facts |= {"problems": built.problems, "sha256": hashlib.sha256(built.code).hexdigest()}
    _write(json.dumps(facts).encode() + b"\n" + built.code, file)


def write_failure(facts: Mapping[str, str | None], file: Path) -> None:
    """Keep why a variant does not compile, unless the machine may be to blame."""
    if not any(sign in (facts["got"] or "") for sign in _PASSING):
        _write(json.dumps(dict(facts)).encode(), file.with_suffix(FAILED))


def read_failure(file: Path) -> dict[str, str | None] | None:
    """What ``write_failure`` kept; None if it is not there, or damaged."""
    try:
        facts = json.loads(file.with_suffix(FAILED).read_bytes())
        return {name: facts[name] for name in ("what", "where", "got", "expected", "next")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(data: bytes, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(file: Path) -> Built | None:
    """What ``write`` kept; None if it is not there, or damaged."""
    try:
        head, _, code = file.read_bytes().partition(b"\n")
        facts = json.loads(head)
        if facts["sha256"] != hashlib.sha256(code).hexdigest():
            return None
        given = {name: facts[name] for name in FIELDS}
        return Built(code=code, problems=tuple(facts["problems"]), **given)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def answer(line: str) -> dict[str, Any]:
    """Do one job; what came of it as plain data."""
    job = json.loads(line)
    kernel, variant = job_from_json(job["kernel"])
    try:
        write(build(kernel, variant, job["arch"]), Path(job["file"]))
    except GraphoptError as error:
        facts = {"what": error.what, "where": error.where, "got": error.got}
        facts |= {"expected": error.expected, "next": error.next}
        if isinstance(error, CompileError):
            write_failure(facts, Path(job["file"]))
        return {"error": facts}
    except OSError as error:
        return {"error": {"what": "a compiled kernel cannot be kept", "got": str(error)}}
    return {"error": None}


def main() -> None:
    """Answer lines until there are no more. What Triton prints is no answer."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(answer(line)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
