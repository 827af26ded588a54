"""Random mixed batches of attention: for the kernels in pages of NaN, for the reference in f64."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.reference import PagedState, prepare
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.kv_layout import kv_bytes

from .native import aligned, compile_source, run_team

_WRITER = """
#include "kv.h"
#include "parallel.h"
using namespace gopt;

// a: heads, key size and value size, slots, keys, values, memory of both
template <class E>
static void write(const Step& step, void* const* a) {
  const int64_t* n = static_cast<const int64_t*>(a[0]);
  const KvLayer layer{a[4], a[5], step.block_size};
  for (int64_t t = 0; t < step.T; ++t) {
    const int64_t slot = static_cast<const int64_t*>(a[1])[t];
    write_keys<E>(layer, n[0], n[1], slot, static_cast<const float*>(a[2]) + t * n[0] * n[1]);
    if (n[3] == 0)
      write_values<E>(layer, n[0], n[2], slot, static_cast<const float*>(a[3]) + t * n[0] * n[2]);
  }
}
static void write_f32(const Step& s, Team&, void* const* a) { write<float>(s, a); }
static void write_bf16(const Step& s, Team&, void* const* a) { write<bf16>(s, a); }
static void write_f16(const Step& s, Team&, void* const* a) { write<f16>(s, a); }
"""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One attention: its sizes, and what it adds to the scores."""

    layer: LayerState
    heads: int
    block: int
    query: DType
    latent: bool = False
    scale: float = 0.3
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    alibi: bool = False
    reach: bool = False
    score: str = ""
    mask: str = ""

    @property
    def state(self) -> StateType:
        return StateType("latent" if self.latent else "kv", (self.layer,))

    @property
    def attrs(self) -> dict[str, Attr]:
        names = ("scale", "window", "softcap", "sinks", "alibi", "reach", "score", "mask")
        found: dict[str, Attr] = {"layer": 0, **{name: getattr(self, name) for name in names}}
        return {name: value for name, value in found.items() if value != ""}


@dataclass(slots=True)
class Batch:
    """Sequences whose keys and values lie in shuffled blocks.

    Attributes:
        queries: float64, of numbers that the query's type holds; [T, Hq, D].
        rows: keys and values of each written slot, float32, of numbers that the state's type holds.
    """

    case: Case
    queries: Array
    slots: Array
    keys: Array
    values: Array
    starts: Array
    lengths: Array
    tables: Array
    blocks: int
    sinks: Array = field(default_factory=lambda: np.zeros(0))
    slopes: Array = field(default_factory=lambda: np.zeros(0))
    reaches: Array = field(default_factory=lambda: np.zeros(0, np.int32))

    def expected(self) -> Array:
        """What the reference computes in float64."""
        case, layer = self.case, self.case.layer
        wide = LayerState(layer.heads, layer.key_size, layer.value_size, DType.F64)
        state = StateType(case.state.kind, (wide,))
        memory = PagedState.allocate(state, self.blocks, case.block, fill=float("nan"))
        keys = memory.keys[0].view(-1, layer.heads, layer.key_size)
        keys[self.slots] = torch.from_numpy(self.keys).double()
        if not case.latent:
            values = memory.values[0].view(-1, layer.heads, layer.value_size)
            values[self.slots] = torch.from_numpy(self.values).double()
        extra = [
            torch.from_numpy(array)
            for array, used in (
                (self.sinks, case.sinks),
                (self.slopes, case.alibi),
                (self.reaches, case.reach),
            )
            if used
        ]
        arrays = (self.starts, self.lengths, self.tables)
        operands = [torch.from_numpy(self.queries), memory, *map(torch.from_numpy, arrays), *extra]
        (out,) = prepare(_node(case, state))(operands, {})
        return out.numpy()  # type: ignore[no-any-return]


def _node(case: Case, state: StateType) -> Any:
    b = GraphBuilder("attend")
    tokens, sequences, blocks = sym("T"), sym("S"), sym("P")
    shape = (tokens, case.heads, case.layer.key_size)
    inputs = [
        b.input("q", TensorType(DType.F64, shape)),
        b.input("kv", state),
        b.input("starts", TensorType(DType.I32, (sequences + 1,))),
        b.input("lengths", TensorType(DType.I32, (sequences,))),
        b.input("tables", TensorType(DType.I32, (sequences, blocks))),
    ]
    for name in ("sinks", "alibi"):
        if getattr(case, name):
            inputs.append(b.input(name, TensorType(DType.F64, (case.heads,))))
    if case.reach:
        inputs.append(b.input("reaches", TensorType(DType.I32, (tokens,))))
    b.node("attention", inputs, case.attrs)
    return b.nodes[-1]


def make_batch(case: Case, lengths: list[int], counts: list[int], seed: int) -> Batch:
    """So many new tokens of sequences of so many tokens, and sometimes rows of no sequence."""
    rng = Random(seed)
    random = np.random.default_rng(seed)
    layer, block = case.layer, case.block
    needed = [-(-length // block) for length in lengths]
    free = list(range(sum(needed) + 2))
    rng.shuffle(free)
    tables = np.full((len(lengths), max(needed, default=0) + rng.randint(0, 1)), -1, np.int32)
    slots: list[int] = []
    for s, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        low = max(0, length - count - case.window + 1) if case.window else 0
        for j in range(low // block, needed[s]):
            tables[s, j] = free.pop()
        slots += [int(tables[s, j // block]) * block + j % block for j in range(low, length)]
    tokens = sum(counts) + rng.choice((0, 0, 2))
    key = _numbers(random, (len(slots), layer.heads, layer.key_size), layer.dtype)
    value = _numbers(random, (len(slots), layer.heads, layer.value_size), layer.dtype)
    return Batch(
        case,
        _numbers(random, (tokens, case.heads, layer.key_size), case.query).astype(np.float64),
        np.array(slots, np.int64),
        key,
        value,
        np.concatenate(([0], np.cumsum(counts))).astype(np.int32),
        np.array(lengths, np.int32),
        tables,
        (needed and sum(needed) + 2) or 2,
        random.normal(size=case.heads).astype(np.float32).astype(np.float64),
        (random.random(case.heads) / 4).astype(np.float32).astype(np.float64),
        _reaches(rng, lengths, counts, tokens),
    )


def _reaches(rng: Random, lengths: list[int], counts: list[int], tokens: int) -> Array:
    """Sequences that see all of themselves, some of what comes, spans, or nothing ahead."""
    found: list[int] = []
    for length, count in zip(lengths, counts, strict=True):
        kind = rng.choice(("all", "any", "spans", "none"))
        end = 0
        for own in range(length - count, length):
            if kind == "spans" and own >= end:
                end = min(length, own + rng.randint(1, 50))
            some = rng.choice((-(2**31), own, rng.randint(0, length + 2), 2**31 - 1))
            found.append({"all": length, "any": some, "spans": end, "none": 0}[kind])
    return np.array(found + [77] * (tokens - len(found)), np.int32)


def _numbers(random: np.random.Generator, shape: tuple[int, ...], dtype: DType) -> Array:
    """Float32 numbers that ``dtype`` holds exactly."""
    return decoded(encoded(random.normal(size=shape), dtype), dtype).astype(np.float32)


def encoded(array: Array, dtype: DType) -> Array:
    """``array`` in the element type that a kernel reads."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(getattr(torch, dtype.torch_name))
    return tensor.view(torch.uint16).numpy() if dtype.nbytes == 2 else tensor.numpy()


def decoded(array: Array, dtype: DType) -> Array:
    """What ``encoded`` arrays hold, as float64."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(getattr(torch, dtype.torch_name)).double().numpy()


def memory_of(case: Case, blocks: int) -> tuple[Array, Array]:
    """Pages of NaN for keys and values."""
    keys, values = kv_bytes(case.layer, case.block, is_latent=case.latent)
    return aligned(blocks * keys), aligned(blocks * values)


def written_memory(batch: Batch, isa: str) -> tuple[Array, Array]:
    """Pages of NaN with the batch's keys and values where they belong."""
    case, layer = batch.case, batch.case.layer
    memory = memory_of(case, batch.blocks)
    sizes = np.array([layer.heads, layer.key_size, layer.value_size, case.latent], np.int64)
    run_team(
        compile_source(_WRITER, isa, kernels=("write_f32", "write_bf16", "write_f16")),
        f"write_{layer.dtype}",
        [sizes, batch.slots, batch.keys, batch.values, *memory],
        sizes=(len(batch.slots), 1, 1, 1),
        block_size=case.block,
    )
    return memory


def relative_error(out: Array, expected: Array) -> float:
    """The norm of the difference over the norm of what is expected; NaN if either has one."""
    norm = float(np.linalg.norm(expected))
    return float(np.linalg.norm(out - expected)) / (norm or 1.0)
