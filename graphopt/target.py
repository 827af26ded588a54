"""What a plan is compiled for: ``cpu``, ``cpu:ISA`` or ``cuda:sm_NN``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.errors import UsageError

CPU_ISAS = ("avx512", "avx2", "portable")
# GPUs that kernels are compiled for: those whose resources are known and whose tensor cores take
# bf16.
GPU_ARCHS = tuple(f"sm_{number}" for number in (80, 86, 87, 89, 90, 100, 103, 120, 121))


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of device and, where it matters, its instruction set or architecture.

    Attributes:
        kind: ``cpu`` or ``cuda``.
        arch: ``avx512``, ``avx2``, ``portable`` or ``sm_NN``; empty for whatever the host has.
    """

    kind: str
    arch: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.arch}" if self.arch else self.kind

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target that prints as ``text``.

        Raises:
            UsageError: there is no such target.
        """
        kind, _, arch = text.partition(":")
        known = (kind == "cpu" and (not arch or arch in CPU_ISAS)) or (
            kind == "cuda" and (not arch or re.fullmatch(r"sm_\d{2,3}", arch) is not None)
        )
        if not known or (":" in text and not arch):
            raise UsageError(
                "unknown target",
                got=text,
                expected=f"cpu, cpu:{'|'.join(CPU_ISAS)}, cuda or cuda:sm_NN",
            )
        return cls(kind, arch)
