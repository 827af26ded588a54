"""C++ compiled and called in a test: a kernel in a parallel region, on numpy's buffers."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from graphopt.codegen.cpp.build import build
from graphopt.isa import host_isas, isa_named
from graphopt.runtime.executors.cpp import CStep as Step

# What this CPU has; cases are made from it.
ISAS = tuple(isa.name for isa in host_isas())

# Runs a kernel called so, as a piece would.
_ENTRY = """
#include <omp.h>
extern "C" __attribute__((visibility("default"))) void run_{name}(
    const gopt::Step* step, void* const* a) {{
  gopt::Barrier shared;
  int threads = step->threads;
#pragma omp parallel num_threads(threads)
  {{
    gopt::Team team{{omp_get_thread_num(), omp_get_num_threads(), &shared,
                    step->scratch + omp_get_thread_num() * step->scratch_stride}};
    {name}(*step, team, a);
  }}
}}
"""


@cache
def compile_source(
    source: str, isa: str, *, kernels: tuple[str, ...] = (), flags: tuple[str, ...] = ()
) -> ctypes.CDLL:
    """``source`` as a library, with an entry for each of its ``kernels``; see ``run_team``."""
    text = source + "".join(_ENTRY.format(name=name) for name in kernels)
    data = build({"test": text}, isa_named(isa), flags=flags)
    handle, path = tempfile.mkstemp(suffix=".so")
    os.write(handle, data)
    os.close(handle)
    library = ctypes.CDLL(path)
    Path(path).unlink()
    return library


def aligned(nbytes: int, fill: int = 0xFF) -> npt.NDArray[np.uint8]:
    """Bytes at an address that is a multiple of 64; filled with NaN by default."""
    raw = np.full(nbytes + 64, fill, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


def run_team(
    library: ctypes.CDLL,
    kernel: str,
    arrays: Sequence[npt.NDArray[np.generic]],
    *,
    sizes: tuple[int, int, int, int] = (1, 1, 1, 1),
    threads: int = 1,
    scratch_bytes: int = 1 << 16,
    block_size: int = 16,
) -> None:
    """Run ``kernel`` on ``threads`` threads; ``arrays`` are its operands, results and workspace.

    Args:
        library: from ``compile_source``.
        kernel: its name.
        arrays: contiguous; what it writes, it writes there.
        sizes: T, R, S and P.
        threads: size of the team.
        scratch_bytes: of each thread, filled with NaN before.
        block_size: slots in a block of keys and values.
    """
    stride = -(-scratch_bytes // 64) * 64
    scratch = aligned(stride * threads)
    step = Step(*sizes, scratch.ctypes.data, stride, threads, 0, 1, block_size)
    pointers = (ctypes.c_void_p * max(1, len(arrays)))(*(array.ctypes.data for array in arrays))
    getattr(library, f"run_{kernel}")(ctypes.byref(step), pointers)
