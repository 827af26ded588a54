"""Variants of kernels to cubins, for an architecture that need not be here.

A cubin takes the kernel's pointers and sizes in order, then two pointers of Triton's own: global
memory that programs use for descriptors, and a profiler's. Sizes are 32-bit integers of which
nothing is assumed; of pointers it is that they are aligned to 16 bytes.

A variant that spills where more registers can be had is compiled again with a bound that leaves it
more: one program less on a multiprocessor costs less than memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import CompileError, MachineError
from graphopt.ir.dtype import DType

from .assembler import bounds, usage_of
from .dependent import WAIT, early_instructions
from .kernel import ALIGNMENT, TritonKernel, Variant
from .load import load_module

TYPES: Mapping[DType, str] = {
    DType.F64: "fp64",
    DType.F32: "fp32",
    DType.BF16: "bf16",
    DType.F16: "fp16",
    DType.F8E4M3: "fp8e4nv",
    DType.F8E5M2: "fp8e5",
    DType.I64: "i64",
    DType.I32: "i32",
    DType.I16: "i16",
    DType.I8: "i8",
    DType.U8: "u8",
    DType.BOOL: "i1",
}
# The first architecture whose tensor cores compute in fp8.
FP8_ARCH = 89


@dataclass(frozen=True, slots=True)
class Cubin:
    """A compiled variant.

    Attributes:
        code: the cubin.
        ptx: what ``ptxas`` made it of.
        symbol: the function's name in it.
        threads: of one program.
        shared_bytes: of shared memory for one program.
        global_bytes: of Triton's own memory for one program.
        global_alignment: of that memory.
        arch: such as 90 for ``sm_90``.
        bound: the most registers of a thread that it was compiled for; None for any.
    """

    code: bytes
    ptx: str
    symbol: str
    threads: int
    shared_bytes: int
    global_bytes: int
    global_alignment: int
    arch: int
    bound: int | None = None


def arch_number(arch: str) -> int:
    """90 of ``sm_90``."""
    return int(arch.removeprefix("sm_"))


def options_of(variant: Variant) -> dict[str, Any]:
    """What Triton is told besides constants; a bound of registers may come to it."""
    return {
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "enable_fp_fusion": True,
    }


def compile_variant(kernel: TritonKernel, variant: Variant, arch: int) -> Cubin:
    """Compile one variant.

    Raises:
        MachineError: Triton is not installed.
        CompileError: the kernel does not compile, and the message quotes the line; or it may be
            launched early, and its code does not wait before all else.
    """
    try:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
    except ImportError as error:
        raise MachineError(
            "kernels for a GPU need Triton", got=str(error), next="pip install 'graphopt[cuda]'"
        ) from error
    if DType.F8E4M3 in kernel.pointers and arch < FP8_ARCH:
        raise CompileError(
            "fp8 needs another GPU",
            where=kernel.name,
            got=f"sm_{arch}",
            expected=f"sm_{FP8_ARCH} or later, whose tensor cores compute in it",
        )
    function = getattr(load_module(kernel.name, kernel.text), variant.function)
    signature = _signature(function.arg_names, kernel, variant)
    attrs = {
        (place,): [["tt.divisibility", ALIGNMENT]]
        for place, type_ in enumerate(signature.values())
        if type_.startswith("*")
    }
    source = ASTSource(function, signature, constexprs=dict(variant.constants), attrs=attrs)
    options = options_of(variant)

    def made(**bound: int) -> Cubin:
        target = GPUTarget("cuda", arch, 32)
        try:
            return _cubin(triton.compile(source, target=target, options=options | bound), arch)
        except Exception as error:
            raise CompileError(
                "a kernel does not compile",
                where=f"{kernel.name}: {variant.function}, {dict(variant.constants)}, sm_{arch}",
                got=_causes(error),
            ) from error

    found = _roomy(made)
    if WAIT in kernel.text and (wrong := early_instructions(found.ptx)):
        raise CompileError(
            "a kernel that may be launched early does not wait before all else",
            where=f"{kernel.name}: {variant.function}, {dict(variant.constants)}, sm_{arch}",
            got="; ".join(wrong),
        )
    return found


def _roomy(made: Callable[..., Cubin]) -> Cubin:
    """What ``made`` gives with as few registers as spill nothing; if all do, as it comes."""
    first = made()
    usage = usage_of(first.code)
    if usage.stack_bytes:
        for most in bounds(usage.registers, first.threads):
            found = made(maxnreg=most)
            if not usage_of(found.code).stack_bytes:
                return found
    return first


def _signature(names: list[str], kernel: TritonKernel, variant: Variant) -> dict[str, str]:
    types = [f"*{TYPES[dtype]}" if dtype else "*u8" for dtype in kernel.pointers]
    types += ["i32" for _ in kernel.sizes]
    plain = [name for name in names if name not in variant.constants]
    if len(plain) != len(types):
        raise CompileError(
            "a kernel's function takes other arguments than its kernel says",
            where=f"{kernel.name}: {variant.function}",
            got=", ".join(names),
            expected=f"{len(types)} and {', '.join(variant.constants)}",
        )
    given = dict(zip(plain, types, strict=True))
    return {name: given.get(name, "constexpr") for name in names}


def _cubin(compiled: Any, arch: int) -> Cubin:
    meta, ptx = compiled.metadata, compiled.asm["ptx"]
    threads = re.search(r"\.reqntid (\d+)", ptx)
    return Cubin(
        compiled.asm["cubin"],
        ptx,
        meta.name,
        int(threads[1]) if threads else 32 * meta.num_warps,
        meta.shared,
        meta.global_scratch_size,
        max(1, meta.global_scratch_align),
        arch,
        meta.maxnreg,
    )


def _causes(error: BaseException) -> str:
    """What an error says, and those that caused it: the one with the source line among them."""
    found: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        found.append(f"{type(cause).__name__}: {cause}".strip())
        cause = cause.__cause__
    return "\n".join(dict.fromkeys(found))[:4000]
