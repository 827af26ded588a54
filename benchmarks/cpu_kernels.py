"""How near linear maps come to what the machine can do.

    python -m benchmarks.cpu_kernels [--isa avx512] [--threads 2] [--rounds 7] [--json]

Few rows read weights: bytes a second, beside those of a plain read right before and after. Many
rows multiply: operations a second, beside a loop that does nothing but multiply and add. A sample
is steady if the limit before and after it agree; fractions are of their mean. Cases are
interleaved; with --only a few of them fit a quiet moment. A single thread is timed by its own
clock, which stands still while others have the core. With --json samples are written to
benchmarks/results/cpu/kernels_ISA.json.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.harness import summary, write_results
from graphopt.codegen.cpp.build import build
from graphopt.isa import host_isa, isa_named

SOURCE = Path(__file__).with_suffix(".cpp")
BYTES = {"float": 4, "bf16": 2, "f16": 2}
STEADY = 0.15  # two reads agree if they differ by less
READ_BYTES = 1 << 28  # of weights that a sample goes through; several times what caches hold


@dataclass(frozen=True, slots=True)
class Case:
    """Linear maps of one shape: rows of x, columns of y for each of the parts, k."""

    weight: str
    rows: int
    columns: int
    k: int
    parts: int = 1

    @property
    def name(self) -> str:
        """As in the table."""
        parts = f"{self.parts} x " if self.parts > 1 else ""
        return f"{self.weight} {self.rows} x {self.k} x {parts}{self.columns}"

    @property
    def weight_bytes(self) -> int:
        """Of one map, as it is packed."""
        pair = 4 // BYTES[self.weight]
        return self.parts * (-(-self.columns // 16) * 16) * -(-self.k // pair) * 4

    @property
    def operations(self) -> float:
        """Of one map."""
        return 2.0 * self.rows * self.parts * self.columns * self.k


FEW = (
    *(Case("bf16", rows, 4864, 896) for rows in (1, 2, 4, 8, 16)),
    *(Case("bf16", rows, 4864, 896, 2) for rows in (1, 8)),
    *(Case("bf16", rows, 896, 4864) for rows in (1, 8)),
    *(Case("f16", rows, 4864, 896) for rows in (1, 8)),
    *(Case("float", rows, 4864, 896) for rows in (1, 8)),
)
MANY = (
    Case("bf16", 512, 4864, 896),
    Case("bf16", 512, 4864, 896, 2),
    Case("bf16", 512, 896, 4864),
    Case("bf16", 512, 8192, 2048),
    Case("bf16", 512, 2048, 8192),
    Case("bf16", 128, 4864, 896),
    Case("bf16", 32, 4864, 896),
    Case("f16", 512, 4864, 896),
    Case("float", 512, 4864, 896),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A rate, and the limit right before and after."""

    rate: float
    limits: tuple[float, float]

    @property
    def steady(self) -> bool:
        """Whether the limit is the same before and after."""
        return max(self.limits) - min(self.limits) < STEADY * max(self.limits)

    @property
    def fraction(self) -> float:
        """Of the limit."""
        return self.rate / statistics.mean(self.limits)


@dataclass(frozen=True, slots=True)
class Bench:
    """A compiled cpu_kernels.cpp and the buffers it works on."""

    library: ctypes.CDLL
    threads: int
    weights: npt.NDArray[np.uint16]
    scratch: npt.NDArray[np.uint8]

    @classmethod
    def open(cls, isa: str, threads: int, weights_bytes: int = READ_BYTES) -> Bench:
        """Compile for ``isa``."""
        data = build({"cpu_kernels": SOURCE.read_text()}, isa_named(isa))
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(data)
            file.flush()
            library = ctypes.CDLL(file.name)
        for name in ("read_all", "peak_float", "peak_bf16", *(f"maps_{kind}" for kind in BYTES)):
            getattr(library, name).restype = ctypes.c_double
        for name in ("workspace_bytes", "scratch_bytes"):
            getattr(library, name).restype = ctypes.c_int64
        # Small numbers of every type that is read from them.
        weights = np.full(weights_bytes // 2 + 32, 0x2C2C, np.uint16)
        return cls(library, threads, weights, _aligned(64 << 20))

    def read(self) -> float:
        """Bytes a second of a plain read."""
        out = np.zeros(8 * self.threads, np.int64)
        weights = _from_line(self.weights)
        seconds = self.library.read_all(
            _at(weights), ctypes.c_int64(weights.nbytes), self.threads, _at(out)
        )
        return weights.nbytes / float(seconds)

    def peak(self, kind: str, steps: int = 300_000) -> float:
        """Operations a second of a loop of multiply-and-adds."""
        out = np.zeros(16 * self.threads, np.float32)
        name = "bf16" if kind == "bf16" else "float"
        peak = getattr(self.library, f"peak_{name}")
        return float(peak(ctypes.c_int64(steps), self.threads, _at(out)))

    def seconds(self, case: Case, count: int) -> float:
        """Seconds of one of ``count`` maps with weights of their own."""
        dtype = np.float32 if case.weight == "float" else np.uint16
        x = np.full((case.rows, case.k), 0x2C2C, np.uint16).astype(dtype)
        y = np.zeros((case.rows, case.parts, case.columns), dtype)
        workspace = _aligned(
            self.library.workspace_bytes(ctypes.c_int64(case.rows), ctypes.c_int64(case.k))
        )
        weights = _from_line(self.weights)
        run = getattr(self.library, f"maps_{case.weight}")

        def total(maps: int) -> float:
            sizes = map(ctypes.c_int64, (maps, case.rows, case.columns, case.k))
            buffers = map(_at, (workspace, self.scratch))
            return float(
                run(_at(weights), *sizes, case.parts, _at(x), _at(y), self.threads, *buffers)
            )

        total(1)  # touches the pages of all buffers
        return total(count) / count


def _at(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _from_line(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``array`` from its first element at the start of a cache line."""
    return array[-array.ctypes.data % 64 // array.itemsize :]


def _aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    return _from_line(np.zeros(nbytes + 64, np.uint8))


def few_rows(bench: Bench, case: Case) -> Sample:
    """Bytes a second of reading as many weights as fit the buffer, and of a plain read."""
    before = bench.read()
    seconds = bench.seconds(case, READ_BYTES // case.weight_bytes)
    return Sample(case.weight_bytes / seconds, (before, bench.read()))


def many_rows(bench: Bench, case: Case) -> Sample:
    """Operations a second of one map, and of a loop of nothing else."""
    before = bench.peak(case.weight)
    seconds = bench.seconds(case, 1)
    return Sample(case.operations / seconds, (before, bench.peak(case.weight)))


def measure(
    bench: Bench, cases: Sequence[Case], one: Callable[[Bench, Case], Sample], rounds: int
) -> dict[str, list[Sample]]:
    """``rounds`` samples of each case, all cases in every round."""
    found: dict[str, list[Sample]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            found[case.name].append(one(bench, case))
    return found


def figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """Fractions of the limit in steady samples, and the best rate over the best limit of all."""
    best = max(one.rate for one in samples) / max(max(one.limits) for one in samples)
    steady = [one.fraction for one in samples if one.steady]
    return {"best": best, **(summary(steady) if steady else {})}


def table_of(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Median, least and most of the steady samples of every case, and the best of all."""
    table = Table(title, "median", "min", "max", "steady samples", "best over best")
    for name, row in rows.items():
        shown = (f"{row[key]:.0%}" if key in row else "-" for key in ("median", "min", "max"))
        table.add_row(name, *shown, str(len(row.get("samples", ()))), f"{row['best']:.0%}")
    return table


def main() -> None:
    """Measure and print; see the module's docstring."""
    parser = argparse.ArgumentParser(description="How near linear maps come to the machine")
    parser.add_argument("--isa", default=host_isa().name)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", action="store_true", help="write the samples")
    options = parser.parse_args()
    bench = Bench.open(options.isa, options.threads)
    few, many = ([case for case in cases if options.only in case.name] for cases in (FEW, MANY))
    reading = measure(bench, few, few_rows, options.rounds)
    multiplying = measure(bench, many, many_rows, options.rounds)
    tables = {
        "few rows, of a plain read": reading,
        "many rows, of bare multiply-and-adds": multiplying,
    }
    console = Console()
    limits = {
        "read_gb_s": bench.read() / 1e9,
        "bf16_tflop_s": bench.peak("bf16") / 1e12,
        "float_tflop_s": bench.peak("float") / 1e12,
    }
    console.print(", ".join(f"{name} {value:.2f}" for name, value in limits.items()))
    results: dict[str, Any] = {"limits": limits}
    for title, found in tables.items():
        rows = {name: figures(samples) for name, samples in found.items() if samples}
        console.print(table_of(title, rows))
        results |= rows
    if options.json:
        console.print(f"written to {write_results(f'cpu/kernels_{options.isa}', results)}")


if __name__ == "__main__":
    main()
