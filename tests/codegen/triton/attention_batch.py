"""Random mixed batches of attention in pages of NaN: a kernel's results, and the reference's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import torch

from graphopt.codegen.triton.attention import attention_kernel
from graphopt.codegen.triton.interpreter import run
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.reference import PagedState, prepare, torch_dtype
from graphopt.ir.shape import evaluate, sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.region import Region, make_region

T, S, P = sym("T"), sym("S"), sym("P")
GUARD = 64  # bytes after a workspace, and rows after the results, that must stay as they are


@dataclass(frozen=True, slots=True)
class Case:
    """One attention: its sizes, what it adds to the scores, and how its queries are arranged."""

    layer: LayerState
    heads: int
    query: DType = DType.F32
    block: int = 16
    latent: bool = False
    scale: float = 0.3
    window: int = 0
    softcap: float = 0.0
    sinks: bool = False
    alibi: bool = False
    reach: bool = False
    score: str = ""
    mask: str = ""
    form: str = "plain"

    @property
    def state(self) -> StateType:
        return StateType("latent" if self.latent else "kv", (self.layer,))

    @property
    def attrs(self) -> dict[str, Attr]:
        names = ("scale", "window", "softcap", "sinks", "alibi", "reach", "score", "mask")
        found: dict[str, Attr] = {"layer": 0, **{name: getattr(self, name) for name in names}}
        return {name: value for name, value in found.items() if value != ""}

    @property
    def tolerance(self) -> float:
        return 1e-5 if self.query is DType.F32 else 1e-2


@dataclass(slots=True)
class Batch:
    """Sequences whose keys and values lie in shuffled blocks; everything else is poison."""

    case: Case
    queries: torch.Tensor
    memory: PagedState
    starts: torch.Tensor
    lengths: torch.Tensor
    tables: torch.Tensor
    sinks: torch.Tensor
    slopes: torch.Tensor
    reaches: torch.Tensor
    sizes: dict[str, int] = field(default_factory=dict)

    def expected(self) -> torch.Tensor:
        """What the reference computes in float32 or wider."""
        case, layer = self.case, self.case.layer
        wide = LayerState(layer.heads, layer.key_size, layer.value_size, DType.F64)
        state = StateType(case.state.kind, (wide,))
        keys = tuple(one.double() for one in self.memory.keys)
        values = tuple(one[..., : layer.value_size] for one in keys)
        if not case.latent:
            values = tuple(one.double() for one in self.memory.values)
        memory = PagedState(keys, values, case.block, case.latent)
        given = [self.starts, self.lengths, self.tables]
        extra = [one.double() if one.is_floating_point() else one for one in self.extra()]
        operands = [self.queries.double(), memory, *given, *extra]
        (out,) = prepare(_reference(case, state))(operands, {})
        assert isinstance(out, torch.Tensor)
        return out

    def extra(self) -> list[torch.Tensor]:
        """Numbers for each head, and for each row, as far as the case has them."""
        case = self.case
        pairs = ((self.sinks, case.sinks), (self.slopes, case.alibi), (self.reaches, case.reach))
        return [tensor for tensor, used in pairs if used]

    @property
    def rows(self) -> int:
        """Rows that belong to sequences."""
        return int(self.starts[-1])


def _reference(case: Case, state: StateType) -> Node:
    b = GraphBuilder("attend")
    _attention(b, case, state, b.input("q", _query_type(case, DType.F64)), DType.F64)
    return b.nodes[-1]


def _query_type(case: Case, dtype: DType) -> TensorType:
    return TensorType(dtype, (T, case.heads, case.layer.key_size))


def _attention(b: GraphBuilder, case: Case, state: StateType, query: Value, dtype: DType) -> Value:
    inputs = [
        query,
        b.input("kv", state),
        b.input("starts", TensorType(DType.I32, (S + 1,))),
        b.input("lengths", TensorType(DType.I32, (S,))),
        b.input("tables", TensorType(DType.I32, (S, P))),
    ]
    for name in ("sinks", "alibi"):
        if getattr(case, name):
            inputs.append(b.weight(name, TensorType(dtype, (case.heads,))))
    if case.reach:
        inputs.append(b.input("reaches", TensorType(DType.I32, (T,))))
    return b.node("attention", inputs, case.attrs)[0]


def region_of(case: Case) -> tuple[Graph, Region]:
    """Attention whose queries lie in what a projection made, arranged in one of several ways."""
    b = GraphBuilder("attend")
    heads, size = case.heads, case.layer.key_size
    if case.form == "plain":
        query = b.input("q", _query_type(case, case.query))
    else:
        wide = b.input("q", TensorType(case.query, (T, heads * size * 3)))
        if case.form == "split":  # queries, keys and values follow each other
            parts = b.node("split", [wide], {"sizes": (heads * size,) * 3, "dim": 1})
            (query,) = b.node("reshape", [parts[1]], {"shape": (T, heads, size)})
        else:  # a head's query, key and value follow each other
            (apart,) = b.node("reshape", [wide], {"shape": (T, heads, 3, size)})
            (query,) = b.node("select", [apart], {"dim": 2, "index": 1})
    out = _attention(b, case, case.state, query, case.query)
    graph = b.finish([out])
    return graph, make_region(graph, range(len(graph.nodes)), family="attention")


def kernel_of(case: Case, arch: int = 80, *, deterministic: bool = False) -> TritonKernel:
    """The kernel for a case."""
    found = region_of(case)
    kernel = attention_kernel(*found, case.block, arch=arch, deterministic=deterministic)
    assert isinstance(kernel, TritonKernel), kernel
    return kernel


def make_batch(
    case: Case, lengths: Sequence[int], counts: Sequence[int], seed: int, padding: int = 2
) -> Batch:
    """So many new tokens of sequences of so many tokens, and rows of no sequence."""
    rng, random = Random(seed), torch.Generator().manual_seed(seed)
    layer, block = case.layer, case.block
    needed = [-(-length // block) for length in lengths]
    free = list(range(sum(needed) + 2))
    rng.shuffle(free)
    poison = 127 if layer.dtype is DType.I8 else float("nan")
    memory = PagedState.allocate(case.state, len(free), block, fill=poison)
    width = max(needed, default=0) + rng.randint(0, 1)
    tables = torch.full((len(lengths), width), -1, dtype=torch.int32)
    for s, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        low = max(0, length - count - case.window + 1) if case.window else 0
        for j in range(low // block, needed[s]):
            tables[s, j] = free.pop()
        for stored in (memory.keys[0],) if case.latent else (memory.keys[0], memory.values[0]):
            for j in range(low, length):
                shape = tuple(stored.shape[2:])
                stored[tables[s, j // block], j % block] = _numbers(random, shape, layer.dtype)
    tokens = sum(counts) + padding
    starts = torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return Batch(
        case,
        _numbers(random, (tokens, case.heads, layer.key_size), case.query),
        memory,
        starts,
        torch.tensor(lengths, dtype=torch.int32),
        tables,
        torch.randn(case.heads, generator=random).to(torch_dtype(case.query)),
        (torch.rand(case.heads, generator=random) / 4).to(torch_dtype(case.query)),
        _some_reaches(rng, lengths, counts, padding),
        {"T": tokens, "S": len(lengths), "P": width},
    )


def _some_reaches(
    rng: Random, lengths: Sequence[int], counts: Sequence[int], padding: int
) -> torch.Tensor:
    """For each row: nothing after it, all of its sequence, or any number; of padding, rubbish."""
    found: list[int] = []
    for length, count in zip(lengths, counts, strict=True):
        choices = (0, length, length, rng.randint(0, length), 1 << 30)
        found += (rng.choice(choices) for _ in range(count))
    return torch.tensor(found + [1 << 30] * padding, dtype=torch.int32)


def _numbers(random: torch.Generator, shape: tuple[int, ...], dtype: DType) -> torch.Tensor:
    if dtype is DType.I8:
        return torch.randint(-3, 4, shape, generator=random).to(torch.int8)
    return torch.randn(shape, generator=random).to(torch_dtype(dtype))


def computed(batch: Batch, kernel: TritonKernel, variant: Variant) -> torch.Tensor:
    """What a variant gives; rows that it does not write are NaN, and its counters zero again."""
    case, layer = batch.case, batch.case.layer
    tokens = batch.queries.shape[0]
    arranged = batch.queries
    if case.form != "plain":
        arranged = torch.full((tokens, 3, *arranged.shape[1:]), float("nan")).to(arranged.dtype)
        arranged[:, 1] = batch.queries
        if case.form == "select":
            arranged = arranged.transpose(1, 2)
    out = torch.full((tokens + GUARD, case.heads, layer.value_size), float("nan"))
    out = out.to(batch.queries.dtype)
    pointers = [
        arranged.contiguous(),
        batch.memory.keys[0],
        torch.empty(1) if case.latent else batch.memory.values[0],
        batch.starts,
        batch.lengths,
        batch.tables,
        *batch.extra(),
        out,
    ]
    room = evaluate(kernel.workspace, batch.sizes)
    workspace = torch.zeros(room + GUARD, dtype=torch.uint8)
    if None in kernel.pointers:
        pointers.append(workspace)
    run(kernel, variant, pointers, batch.sizes)
    assert not workspace[room:].any(), "written past the end"
    assert not workspace[: counters_end(kernel)].any(), "counters are left"
    assert out[tokens:].isnan().all(), "written past the end"
    return out[:tokens]


def counters_end(kernel: TritonKernel) -> int:
    """Where the counters in a kernel's workspace end."""
    text = kernel.text
    return int(text.split("(workspace + ", 1)[1].split(")", 1)[0]) if None in kernel.pointers else 0


def hurried(variant: Variant) -> Variant:
    """A variant that splits few keys already, among few programs: what tests can wait for."""
    few = {"EXTRA": 4, "SPLITS": 4, "LEAST": 1, "COLUMNS": 32}
    grid = (variant.grid[0] - variant.constants["EXTRA"] + few["EXTRA"], variant.grid[1])
    return replace(variant, constants={**variant.constants, **few}, grid=grid)


def variants_for(kernel: TritonKernel, sizes: Mapping[str, int]) -> list[Variant]:
    """What differs among a kernel's variants that may run on a step of ``sizes`` tokens."""
    found = [hurried(one) for one in kernel.variants if sizes["T"] <= one.below.get("T", 1 << 30)]
    return list({repr((one.constants, one.num_warps)): one for one in found}.values())


def check(batch: Batch) -> None:
    """All variants give what the reference does, and leave other rows alone."""
    kernel = kernel_of(batch.case)
    expected = batch.expected()[: batch.rows]
    for variant in variants_for(kernel, batch.sizes):
        out = computed(batch, kernel, variant)
        assert out[batch.rows :].isnan().all(), "rows of no sequence are written"
        error = (out[: batch.rows].double() - expected).norm() / (expected.norm() or 1.0)
        assert error < batch.case.tolerance, f"{error} by {variant}\n{kernel.text}"
