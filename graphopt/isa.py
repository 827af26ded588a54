"""Instruction sets that CPU kernels are compiled for, and which of them this CPU has.

An instruction set here is a set of CPU features that kernels are written for, and the compiler's
flags for it. The best that the host has is taken; ``GRAPHOPT_ISA`` chooses another for tests.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graphopt.errors import MachineError, UsageError

FORCE = "GRAPHOPT_ISA"
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction set.

    Attributes:
        name: as in a target, ``cpu:NAME``.
        features: what the CPU must have, as Linux calls it; empty for any CPU.
        flags: what tells GCC and Clang about it.
        width: floats in a register.
    """

    name: str
    features: frozenset[str]
    flags: tuple[str, ...]
    width: int


_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi2"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni"})
# Best first. Features are spelled as in /proc/cpuinfo, flags as in GCC's manual, section "x86
# Options".
ISAS = (
    Isa(
        "avx512",
        _AVX512 | _AVX2,
        (
            "-mavx512f",
            "-mavx512bw",
            "-mavx512vl",
            "-mavx512dq",
            "-mavx512bf16",
            "-mavx512vnni",
            "-mfma",
            "-mf16c",
            "-mbmi2",
            "-mprefer-vector-width=512",
        ),
        16,
    ),
    Isa("avx2", _AVX2, ("-mavx2", "-mfma", "-mf16c", "-mbmi2"), 8),
    Isa("portable", frozenset(), (), 4),
)


def isa_named(name: str) -> Isa:
    """The instruction set called ``name``.

    Raises:
        UsageError: there is none.
    """
    for isa in ISAS:
        if isa.name == name:
            return isa
    raise UsageError(
        "unknown instruction set", got=name, expected=", ".join(isa.name for isa in ISAS)
    )


@cache
def host_features() -> frozenset[str]:
    """What this CPU has, as Linux calls it; empty where it cannot be told."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def host_isas() -> tuple[Isa, ...]:
    """The instruction sets that run here, best first; the last is portable."""
    return tuple(isa for isa in ISAS if isa.features <= host_features())


def host_isa() -> Isa:
    """The instruction set to use here: the best one, or what ``GRAPHOPT_ISA`` says.

    Raises:
        UsageError: there is none of that name.
        MachineError: this CPU lacks it.
    """
    forced = os.environ.get(FORCE)
    if not forced:
        return host_isas()[0]
    isa = isa_named(forced)
    if missing := isa.features - host_features():
        raise MachineError(
            f"this CPU cannot run {isa.name}",
            where=f"{FORCE}={forced}",
            got=f"no {', '.join(sorted(missing))}",
            expected=", ".join(one.name for one in host_isas()),
        )
    return isa


def isas_of(arch: str, wanted: str) -> tuple[Isa, ...]:
    """The instruction sets that an artifact gets kernels for.

    Args:
        arch: the target's, empty for whatever the host has.
        wanted: ``host``, or ``all``.
    """
    if wanted == "all":
        return ISAS
    return (isa_named(arch) if arch else host_isa(),)
