"""How fast attention over paged keys and values is on this CPU, against what bounds it.

    python -m benchmarks.cpu_attention [--threads 2] [--rounds 5] [--write]

Decoding reads the keys and values of its sequences once: bytes in a second, against what plain
reads reach. Prefill computes products of queries, keys, weights and values: those that causality
leaves, against the rate of bf16 dot products. Each timing runs many layers in one parallel region
and is bracketed by two readings of the machine's rates.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from graphopt.codegen.cpp.build import build
from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState
from graphopt.isa import host_isa
from graphopt.kv_layout import kv_bytes

from .harness import write_results
from .rates import Meter, mean

SOURCE = Path(__file__).with_name("cpu_attention.cpp")
BLOCK = 16
# Of keys and values in decoding: many times the last cache.
CACHE_BYTES = 512 << 20
PREFILL_LAYERS = 24


@dataclass(frozen=True, slots=True)
class Case:
    """One attention.

    Attributes:
        name: the model whose sizes these are.
        layer: what it keeps of a token.
        heads: of queries.
        sequences: how many; all are alike.
        context: tokens of a sequence after the step.
        queries: new tokens of a sequence.
        latent: whether values are the first entries of the keys.
    """

    name: str
    layer: LayerState
    heads: int
    sequences: int
    context: int
    queries: int
    latent: bool = False

    @property
    def read_bytes(self) -> int:
        """Of keys and values, each read once, in one layer."""
        size = self.layer.key_size + (0 if self.latent else self.layer.value_size)
        return self.sequences * self.context * self.layer.heads * size * 2

    @property
    def flop(self) -> int:
        """Products and sums that causality leaves, in one layer."""
        seen = sum(range(self.context - self.queries + 1, self.context + 1))
        size = self.layer.key_size + self.layer.value_size
        return 2 * self.sequences * self.heads * seen * size


def cases() -> Iterator[Case]:
    """Decoding with short and long contexts and several sequences, then prefill."""
    qwen, llama = LayerState(2, 64, 64, DType.BF16), LayerState(8, 128, 128, DType.BF16)
    many, latent = LayerState(32, 64, 64, DType.BF16), LayerState(1, 576, 512, DType.BF16)
    for sequences, context in ((1, 1024), (1, 8192), (8, 1024)):
        yield Case("qwen2.5-0.5b", qwen, 14, sequences, context, 1)
        yield Case("llama-3-8b", llama, 32, sequences, context, 1)
    yield Case("32 heads, ungrouped", many, 32, 1, 4096, 1)
    yield Case("deepseek-v3", latent, 128, 1, 4096, 1, True)
    for context in (512, 2048):
        yield Case("qwen2.5-0.5b", qwen, 14, 1, context, context)
        yield Case("llama-3-8b", llama, 32, 1, context, context)
    yield Case("deepseek-v3", latent, 128, 1, 512, 64, True)


class _Step(ctypes.Structure):
    """The C++ side's ``Step``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in "TRSP"),
        ("scratch", ctypes.c_void_p),
        ("scratch_stride", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("last", ctypes.c_int32),
        ("block_size", ctypes.c_int64),
    ]


class _Shape(ctypes.Structure):
    """The C++ side's ``AttentionShape``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("heads", "kv_heads", "key", "value", "window")),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("latent", ctypes.c_bool),
    ]


def load_library() -> ctypes.CDLL:
    """The compiled functions of cpu_attention.cpp, for the best instruction set of this CPU."""
    data = build({"attention": SOURCE.read_text()}, host_isa())
    handle, path = tempfile.mkstemp(suffix=".so")
    os.write(handle, data)
    os.close(handle)
    library = ctypes.CDLL(path)
    Path(path).unlink()
    library.scratch_bytes.restype = ctypes.c_int64
    return library


class Bench:
    """One case's buffers; ``seconds`` of a layer is how long it takes."""

    def __init__(self, library: ctypes.CDLL, case: Case, threads: int) -> None:
        self._library, layer = library, case.layer
        blocks = -(-case.context // BLOCK) * case.sequences
        key, value = (blocks * size for size in kv_bytes(layer, BLOCK, is_latent=case.latent))
        decoding = CACHE_BYTES // (key + value)
        self.layers = decoding if case.queries == 1 and decoding > 1 else PREFILL_LAYERS
        random = np.random.default_rng(0)
        # Bits of bf16 numbers of either sign between 1/8 and 1.
        number = random.integers(0x3E00, 0x3F80, 1 << 20).astype(np.uint16)
        number ^= (random.integers(0, 2, number.size) << 15).astype(np.uint16)
        self._keys = np.resize(number, self.layers * key // 2)
        self._values = np.resize(number, max(1, self.layers * value // 2))
        tokens = case.sequences * case.queries
        self._queries = np.resize(number, tokens * case.heads * layer.key_size)
        self._out = np.zeros(tokens * case.heads * layer.value_size, np.uint16)
        self._starts = np.arange(case.sequences + 1, dtype=np.int32) * np.int32(case.queries)
        self._lengths = np.full(case.sequences, case.context, np.int32)
        self._tables = random.permutation(blocks).astype(np.int32)
        scale = layer.key_size**-0.5
        self._shape = _Shape(
            case.heads, layer.heads, layer.key_size, layer.value_size, 0, scale, 0, case.latent
        )
        stride = -(-library.scratch_bytes(ctypes.byref(self._shape)) // 64) * 64
        self._scratch = np.zeros(stride * threads + 64, np.uint8)
        place = self._scratch.ctypes.data + -self._scratch.ctypes.data % 64
        sizes = (tokens, 1, case.sequences, blocks // case.sequences)
        self._step = _Step(*sizes, place, stride, threads, 0, 0, BLOCK)
        self._bytes = key, value

    def seconds(self) -> float:
        """Time of one layer, from one run over all of them."""
        arrays = (self._starts, self._lengths, self._tables, self._out)
        started = time.perf_counter()
        self._library.attend_layers(
            ctypes.byref(self._step),
            ctypes.byref(self._shape),
            ctypes.c_int64(self.layers),
            ctypes.c_void_p(self._queries.ctypes.data),
            ctypes.c_void_p(self._keys.ctypes.data),
            ctypes.c_int64(self._bytes[0]),
            ctypes.c_void_p(self._values.ctypes.data),
            ctypes.c_int64(self._bytes[1]),
            *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
        )
        return (time.perf_counter() - started) / self.layers

    def is_finite(self) -> bool:
        """Whether the last result holds numbers only, and not only zeros."""
        exponents = self._out & 0x7F80
        return bool(exponents.any() and (exponents < 0x7F80).all())


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the figures in results/")
    options = parser.parse_args()
    library, meter = load_library(), Meter(options.threads)
    table = Table(
        "model",
        "sequences",
        "context",
        "queries",
        "ms a layer",
        "GB/s",
        "of reads",
        "GFLOP/s",
        "of dot products",
    )
    results = []
    for case in cases():
        bench = Bench(library, case, options.threads)
        bench.seconds()
        rounds = []
        for _ in range(options.rounds):
            before = meter.read()
            seconds = bench.seconds()
            rate = mean(before, meter.read())
            rounds.append(
                {
                    "seconds": seconds,
                    "of_reads": case.read_bytes / seconds / rate.read_bytes_s,
                    "of_dots": case.flop / seconds / rate.dot_flop_s["bf16"],
                }
            )
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        sizes = (case.sequences, case.context, case.queries)
        table.add_row(
            case.name,
            *map(str, sizes),
            f"{middle['seconds'] * 1e3:.3f}",
            f"{case.read_bytes / middle['seconds'] / 1e9:.1f}",
            f"{middle['of_reads']:.0%}",
            f"{case.flop / middle['seconds'] / 1e9:.0f}",
            f"{middle['of_dots']:.0%}",
        )
        results.append({"model": case.name, "sizes": sizes, "rounds": rounds})
    Console(width=120).print(table)
    if options.write:
        write_results("cpu_attention", {"threads": options.threads, "cases": results})


if __name__ == "__main__":
    main()
