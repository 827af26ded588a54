"""A little PTX on NumPy: enough to know what the assembly in kernels computes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
_LINE = re.compile(r"^(\S+) ([^;]+);$")


def assembly_in(function: str) -> str:
    """The assembly in a function of a kernel's text."""
    return function.split('"""')[1]


def run(assembly: str, registers: Mapping[str, Words]) -> dict[str, Words]:
    """All registers after some instructions, by name.

    Args:
        assembly: instructions between braces.
        registers: those that it reads, such as ``$4``.
    """
    found: dict[str, Words] = dict(registers)

    def value(text: str) -> Words:
        if text in found:
            return found[text]
        return np.array(int(text, 0), dtype=np.uint32)

    for line in map(str.strip, assembly.splitlines()):
        match = _LINE.match(line)
        if match is None or line.startswith(".reg"):
            continue
        target, *sources = (one.strip() for one in match[2].split(","))
        found[target] = _INSTRUCTIONS[match[1]](*map(value, sources))
    return found


def _prmt(low: Words, high: Words, selector: Words) -> Words:
    low, high = np.broadcast_arrays(low, high)
    eight = np.stack(
        [low >> 8 * n & 255 for n in range(4)] + [high >> 8 * n & 255 for n in range(4)]
    )
    made = np.zeros(low.shape, dtype=np.uint32)
    for place in range(4):
        chosen = int(selector) >> 4 * place & 15
        assert chosen < 8, "a sign is not known here"
        made |= (eight[chosen] << np.uint32(8 * place)).astype(np.uint32)
    return made


def _pairs(dtype: Any, function: Callable[..., Any]) -> Callable[..., Words]:
    def run(*words: Words) -> Words:
        given = np.broadcast_arrays(*words)
        halves = [
            np.ascontiguousarray(one, dtype=np.uint32).reshape(-1, 1).view(np.uint16).view(dtype)
            for one in given
        ]
        made = function(*(one.astype(np.float64) for one in halves)).astype(dtype)
        whole = np.ascontiguousarray(made).view(np.uint16).view(np.uint32)
        return np.asarray(whole.reshape(given[0].shape))

    return run


_INSTRUCTIONS: Mapping[str, Callable[..., Words]] = {
    "mov.b32": lambda a: a,
    "and.b32": lambda a, b: a & b,
    "xor.b32": lambda a, b: a ^ b,
    "add.u32": lambda a, b: a + b,
    "shr.u32": lambda a, b: a >> b,
    "prmt.b32": _prmt,
    "fma.rn.bf16x2": _pairs(ml_dtypes.bfloat16, lambda a, b, c: a * b + c),
    "sub.f16x2": _pairs(np.float16, lambda a, b: a - b),
}
