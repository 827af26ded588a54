"""The two rates that bound a decoder on this machine: memory reads and dot products.

    python -m benchmarks.rates [--threads 2] [--rounds 9]

On a shared host the read rate can double or halve within seconds, so that one figure for a machine
says nothing: a `Meter` is read right before and right after every timing, in about a third of a
second, and a timing between two readings that differ is thrown away.

A rate is the best over ways to do the same (one or four streams a thread) of the median over
repetitions.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from graphopt.codegen.cpp.build import build
from graphopt.isa import host_isa

SOURCE = Path(__file__).with_name("rates.cpp")
KINDS = ("f32", "bf16", "int8")
STREAMS = (1, 4)
BUFFER_BYTES = 1 << 30  # 32 times the last cache of the machines in results/
REPEATS = 3
DOT_ROUNDS = 1_000_000  # of twelve independent sums a thread: about 6 ms


@dataclass(frozen=True, slots=True)
class Reading:
    """What the machine could do at one moment.

    Attributes:
        read_bytes_s: bytes that all threads read from memory in a second.
        dot_flop_s: products and sums in a second, by the type that is multiplied.
    """

    read_bytes_s: float
    dot_flop_s: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def mean(one: Reading, other: Reading) -> Reading:
    """The rates halfway between two readings."""
    dots = {name: (one.dot_flop_s[name] + other.dot_flop_s[name]) / 2 for name in one.dot_flop_s}
    return Reading((one.read_bytes_s + other.read_bytes_s) / 2, dots)


def spread(one: Reading, other: Reading) -> float:
    """By what part of the lower read rate two readings differ."""
    low, high = sorted((one.read_bytes_s, other.read_bytes_s))
    return high / low - 1


class Meter:
    """Takes readings with some threads.

    Args:
        threads: how many threads read and compute.
        buffer_bytes: memory that is read, many times the last cache.

    Raises:
        MachineError: there is no C++ compiler.
    """

    def __init__(self, threads: int, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.threads = threads
        self._library = _library()
        self._buffer = np.empty(buffer_bytes // 64 * 8 + 8, dtype=np.uint64)
        start = -self._buffer.ctypes.data % 64 // 8
        self._data = self._buffer[start : start + buffer_bytes // 64 * 8]
        self._library.fill(self._data.ctypes.data, self._data.nbytes, threads)

    def read(self) -> Reading:
        """One reading."""
        return Reading(self._read_rate(), {kind: self._dot_rate(kind) for kind in KINDS})

    def _read_rate(self) -> float:
        place, size = self._data.ctypes.data, self._data.nbytes

        def seconds(streams: int) -> float:
            return _median_seconds(
                lambda: self._library.read_memory(place, size, self.threads, streams)
            )

        return size / min(seconds(streams) for streams in STREAMS)

    def _dot_rate(self, kind: str) -> float:
        operations: int = getattr(self._library, f"operations_{kind}")()
        dot = getattr(self._library, f"dot_{kind}")
        seconds = _median_seconds(lambda: dot(DOT_ROUNDS, self.threads))
        return operations * DOT_ROUNDS * self.threads / seconds


def _median_seconds(action: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _library() -> ctypes.CDLL:
    """The compiled functions of rates.cpp, for the best instruction set of this CPU."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rates.so"
        file.write_bytes(build({"rates": SOURCE.read_text()}, host_isa()))
        library = ctypes.CDLL(str(file))
    library.read_memory.restype = ctypes.c_double
    library.read_memory.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_int,
    ]
    library.fill.restype = None
    library.fill.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    for kind in KINDS:
        operations = getattr(library, f"operations_{kind}")
        operations.restype = ctypes.c_int64
        dot = getattr(library, f"dot_{kind}")
        dot.restype = ctypes.c_double
        dot.argtypes = [ctypes.c_int64, ctypes.c_int]
    return library


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description="What this machine can do at most")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    meter = Meter(options.threads)
    readings = [meter.read() for _ in range(options.rounds)]
    table = Table(f"{options.threads} threads", "median", "min", "max")
    rows = {"reads, GB/s": [one.read_bytes_s / 1e9 for one in readings]}
    for kind in KINDS:
        rows[f"{kind} dot products, GFLOP/s"] = [one.dot_flop_s[kind] / 1e9 for one in readings]
    for name, values in rows.items():
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(name, *(f"{figure:.1f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
