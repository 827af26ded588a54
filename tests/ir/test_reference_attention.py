"""Against dense attention: PyTorch's with explicit masks, and a literal one in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from graphopt.errors import IRError
from graphopt.ir import reference_attention
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.reference import PagedState, Step, prepare
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType

T, S, P = sym("T"), sym("S"), sym("P")


@dataclass
class Batch:
    """Sequences with all their keys and values, and the same in pages."""

    queries: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    counts: list[int]
    state: PagedState
    starts: Tensor
    lengths: Tensor
    tables: Tensor

    def arguments(self) -> list[Any]:
        return [self.queries, self.state, self.starts, self.lengths, self.tables]


def steps(layer: LayerState, heads: int, dtype: DType, **attrs: Attr) -> tuple[Step, Step]:
    """kv_write and attention, ready to run."""
    b = GraphBuilder("attend")
    kv = b.input("kv", StateType("kv", (LayerState(1, 1, 1, DType.F32), layer)))
    k = b.input("k", TensorType(dtype, (T, layer.heads, layer.key_size)))
    v = b.input("v", TensorType(dtype, (T, layer.heads, layer.value_size)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    b.node("kv_write", [kv, k, v, slots], {"layer": 1})
    inputs = [
        b.input("q", TensorType(dtype, (T, heads, layer.key_size))),
        kv,
        b.input("starts", TensorType(DType.I32, (S + 1,))),
        b.input("lengths", TensorType(DType.I32, (S,))),
        b.input("tables", TensorType(DType.I32, (S, P))),
    ]
    for name in ("sinks", "alibi"):
        if attrs.get(name):
            inputs.append(b.input(name, TensorType(dtype, (heads,))))
    if attrs.get("reach"):
        inputs.append(b.input("reaches", TensorType(DType.I32, (T,))))
    b.node("attention", inputs, {"layer": 1, **attrs})
    write, attend = b.nodes
    return prepare(write), prepare(attend)


def make_batch(
    rng: Random, layer: LayerState, heads: int, block: int, window: int, write: Step
) -> Batch:
    """Random sequences in shuffled blocks; every place that no query may see holds NaN."""
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    lengths = [rng.choice((1, 2, 5, 17, 33)) for _ in range(rng.randint(1, 4))]
    counts = [1 if rng.random() < 0.5 else rng.randint(1, length) for length in lengths]
    if rng.random() < 0.3:  # a sequence that only pads the batch
        lengths.append(0)
        counts.append(0)
    widest = max(-(-length // block) for length in lengths) + rng.randint(0, 1)
    free = list(range(sum(-(-length // block) for length in lengths) + 2))
    rng.shuffle(free)
    memory = StateType("kv", (LayerState(1, 1, 1, DType.F32), layer))
    state = PagedState.allocate(memory, len(free), block, fill=math.nan)
    tables = torch.full((len(lengths), widest), -1, dtype=torch.int32)
    keys, values = [], []
    dtype = state.keys[1].dtype
    for s, length in enumerate(lengths):
        keys.append(torch.randn(length, layer.heads, layer.key_size, generator=generator).to(dtype))
        values.append(
            torch.randn(length, layer.heads, layer.value_size, generator=generator).to(dtype)
        )
        for j in range(-(-length // block)):
            tables[s, j] = free.pop()
        low = max(0, length - counts[s] - window + 1) if window else 0
        slots = [
            int(tables[s, j // block]) * block + j % block if j >= low else -1
            for j in range(length)
        ]
        write([state, keys[-1], values[-1], torch.tensor(slots, dtype=torch.int64)], {})
    padding = rng.randint(0, 2)
    queries = torch.randn(sum(counts) + padding, heads, layer.key_size, generator=generator)
    starts = torch.tensor([sum(counts[:i]) for i in range(len(counts) + 1)], dtype=torch.int32)
    held = torch.tensor(lengths, dtype=torch.int32)
    return Batch(queries.to(dtype), keys, values, counts, state, starts, held, tables)


def with_sdpa(batch: Batch, scale: float, window: int, alibi: Tensor | None) -> Tensor:
    parts = []
    for s, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
        count, length = batch.counts[s], key.shape[0]
        if not count:
            continue
        query = batch.queries[batch.starts[s] : batch.starts[s + 1]].transpose(0, 1)
        groups = query.shape[0] // key.shape[1]
        own, position = torch.arange(length - count, length)[:, None], torch.arange(length)[None]
        seen = (position <= own) & ((position > own - window) if window else True)
        bias = torch.zeros(query.shape[0], count, length)
        if alibi is not None:
            bias = bias + alibi[:, None, None] * position
        bias = bias.masked_fill(~seen, -math.inf)
        wide_key = key.transpose(0, 1).repeat_interleave(groups, 0)
        wide_value = value.transpose(0, 1).repeat_interleave(groups, 0)
        done = functional.scaled_dot_product_attention(
            query, wide_key, wide_value, attn_mask=bias, scale=scale
        )
        parts.append(done.transpose(0, 1))
    return torch.cat(parts)


def literally(
    batch: Batch,
    scale: float,
    window: int,
    softcap: float,
    sinks: Tensor | None,
    alibi: Tensor | None,
    reaches: Tensor | None = None,
) -> Tensor:
    out = torch.zeros(*batch.queries.shape[:2], batch.state.values[1].shape[-1])
    for s, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
        for i in range(batch.counts[s]):
            row = int(batch.starts[s]) + i
            own = key.shape[0] - batch.counts[s] + i
            for h in range(batch.queries.shape[1]):
                kv_head = h // (batch.queries.shape[1] // key.shape[1])
                query = batch.queries[row, h].double()
                first = max(0, own - window + 1) if window else 0
                end = own + 1 if reaches is None else max(own + 1, int(reaches[row]))
                end = min(end, key.shape[0], own + window if window else key.shape[0])
                scores = []
                for j in range(first, end):
                    score = float(query @ key[j, kv_head].double()) * scale
                    if softcap:
                        score = softcap * math.tanh(score / softcap)
                    scores.append(score + (float(alibi[h]) * j if alibi is not None else 0.0))
                whole = [*scores, float(sinks[h])] if sinks is not None else scores
                top = max(whole)
                total = sum(math.exp(score - top) for score in whole)
                for j, score in enumerate(scores, first):
                    out[row, h] += (math.exp(score - top) / total * value[j, kv_head]).float()
    return out


def reaches_like(batch: Batch, rng: Random) -> Tensor:
    """For each row some number of tokens: behind it, ahead of it, all, or more than there are."""
    reaches = [rng.choice((0, 1, 7, 40))] * batch.queries.shape[0]
    for s, length in enumerate(batch.lengths.tolist()):
        for row in range(int(batch.starts[s]), int(batch.starts[s + 1])):
            reaches[row] = rng.choice((0, length, length, rng.randint(0, length + 2)))
    return torch.tensor(reaches, dtype=torch.int32)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    block=st.sampled_from((1, 3, 16)),
    window=st.sampled_from((0, 1, 4, 7, 17)),
    has_alibi=st.booleans(),
)
def test_agrees_with_sdpa(seed: int, block: int, window: int, has_alibi: bool) -> None:
    rng = Random(seed)
    layer = LayerState(rng.choice((1, 2)), rng.choice((4, 8)), rng.choice((4, 6)), DType.F32)
    heads = layer.heads * rng.choice((1, 3))
    write, attend = steps(layer, heads, DType.F32, scale=0.3, window=window, alibi=has_alibi)
    batch = make_batch(rng, layer, heads, block, window, write)
    alibi = torch.rand(heads) / 4 if has_alibi else None
    (out,) = attend([*batch.arguments(), *([alibi] if has_alibi else [])], {})
    count = sum(batch.counts)
    torch.testing.assert_close(
        out[:count], with_sdpa(batch, 0.3, window, alibi), rtol=1e-5, atol=1e-5
    )
    assert not out[count:].any()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    window=st.sampled_from((0, 5)),
    softcap=st.sampled_from((0.0, 1.5)),
    has_sinks=st.booleans(),
    has_alibi=st.booleans(),
    has_reach=st.booleans(),
)
def test_agrees_with_the_definition(
    seed: int, window: int, softcap: float, has_sinks: bool, has_alibi: bool, has_reach: bool
) -> None:
    rng = Random(seed)
    layer = LayerState(2, 4, 2, DType.F32)
    write, attend = steps(
        layer,
        4,
        DType.F32,
        scale=0.7,
        window=window,
        softcap=softcap,
        sinks=has_sinks,
        alibi=has_alibi,
        reach=has_reach,
    )
    batch = make_batch(rng, layer, 4, 3, window, write)
    sinks = torch.randn(4) if has_sinks else None
    alibi = torch.rand(4) / 4 if has_alibi else None
    reaches = reaches_like(batch, rng) if has_reach else None
    extra = [tensor for tensor in (sinks, alibi, reaches) if tensor is not None]
    (out,) = attend([*batch.arguments(), *extra], {})
    expected = literally(batch, 0.7, window, softcap, sinks, alibi, reaches)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("decodes", [True, False])
def test_expressions_of_scores(decodes: bool) -> None:
    layer = LayerState(2, 4, 4, DType.F32)
    mask, score = "(q - k < 4) & (head != 2)", "score * (1 + head) - sequence * k"
    write, attend = steps(layer, 4, DType.F32, scale=0.3, mask=mask, score=score)
    batch = make_batch(Random(8), layer, 4, 4, 0, write)
    if decodes:  # the last query of each sequence alone: they are computed together
        last = [int(end) - 1 for end, n in zip(batch.starts[1:], batch.counts, strict=True) if n]
        batch.queries = batch.queries[last]
        batch.counts = [min(1, n) for n in batch.counts]
        counts = torch.tensor([0, *batch.counts])
        batch.starts = counts.cumsum(0).to(torch.int32)
    (out,) = attend(batch.arguments(), {})
    expected = torch.zeros_like(out)
    for s, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
        for i in range(batch.counts[s]):
            row, own = int(batch.starts[s]) + i, key.shape[0] - batch.counts[s] + i
            for h in (0, 1, 3):
                seen = torch.arange(max(0, own - 3), own + 1)
                scores = 0.3 * key[seen, h // 2] @ batch.queries[row, h] * (1 + h) - s * seen
                expected[row, h] = scores.softmax(0) @ value[seen, h // 2]
    assert len({s for s, n in enumerate(batch.counts) if n}) > 1
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
def test_narrow_types_are_accumulated_in_f32(dtype: DType) -> None:
    layer = LayerState(2, 8, 8, dtype)
    write, attend = steps(layer, 4, dtype, scale=0.3)
    batch = make_batch(Random(3), layer, 4, 4, 0, write)
    (out,) = attend(batch.arguments(), {})
    wide = Batch(
        batch.queries.float(),
        [key.float() for key in batch.keys],
        [value.float() for value in batch.values],
        batch.counts,
        batch.state,
        batch.starts,
        batch.lengths,
        batch.tables,
    )
    expected = with_sdpa(wide, 0.3, 0, None).to(out.dtype)
    count = sum(batch.counts)
    torch.testing.assert_close(out[:count], expected, rtol=1e-2, atol=1e-3)


def test_long_chunks_are_cut_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LayerState(2, 8, 8, DType.F32)
    write, attend = steps(layer, 4, DType.F32, scale=0.3, window=7)
    batch = make_batch(Random(11), layer, 4, 4, 7, write)
    assert max(batch.counts) > 4
    (whole,) = attend(batch.arguments(), {})
    monkeypatch.setattr(reference_attention, "_MAX_SCORES", 100)
    (cut,) = attend(batch.arguments(), {})
    torch.testing.assert_close(cut, whole, rtol=1e-6, atol=1e-6)


def test_writes_only_where_slots_say() -> None:
    layer = LayerState(1, 2, 2, DType.BF16)
    write, _ = steps(layer, 1, DType.F32, scale=1.0)
    memory = StateType("kv", (LayerState(1, 1, 1, DType.F32), layer))
    state = PagedState.allocate(memory, 2, 3, fill=-1.0)
    key = torch.arange(6.0).view(3, 1, 2)
    (same,) = write([state, key, key + 10, torch.tensor([4, -1, 0])], {})
    assert same is state
    expected = torch.full((6, 1, 2), -1.0)
    expected[4], expected[0] = key[0], key[2]
    assert torch.equal(state.keys[1].view(6, 1, 2).float(), expected)
    expected[4], expected[0] = key[0] + 10, key[2] + 10
    assert torch.equal(state.values[1].view(6, 1, 2).float(), expected)
    assert bool((state.keys[0] == -1).all())


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    heads=st.sampled_from((1, 2)),
    block=st.sampled_from((1, 3, 16)),
    window=st.sampled_from((0, 1, 5)),
)
def test_a_latent_state_agrees_with_keys_and_values_kept_apart(
    seed: int, heads: int, block: int, window: int
) -> None:
    rng = Random(seed)
    layer, scale = LayerState(heads, 7, rng.choice((3, 7)), DType.F32), 0.4
    apart, attend = steps(layer, 3 * heads, DType.F32, scale=scale, window=window)
    batch = make_batch(rng, layer, 3 * heads, block, window, apart)
    b = GraphBuilder("latent")
    memory = StateType("latent", (LayerState(1, 1, 1, DType.F32), layer))
    key = b.input("key", TensorType(DType.F32, (T, heads, 7)))
    slots_in = b.input("slots", TensorType(DType.I64, (T,)))
    b.node("latent_write", [b.input("kv", memory), key, slots_in], {"layer": 1})
    blocks = batch.state.keys[1].shape[0]
    latent = PagedState.allocate(memory, blocks, block, fill=math.nan)
    rows = batch.state.keys[1].flatten(0, 1)
    slots = torch.arange(len(rows)).masked_fill(rows.isnan().flatten(1).any(1), -1)
    (same,) = prepare(b.nodes[0])([latent, rows, slots], {})
    assert same is latent
    (found,) = attend([batch.queries, latent, batch.starts, batch.lengths, batch.tables], {})
    batch.state.values[1].copy_(batch.state.keys[1][..., : layer.value_size])
    (expected,) = attend(batch.arguments(), {})
    assert torch.equal(found, expected)


def test_nothing_is_written_for_padding_or_no_tokens() -> None:
    layer = LayerState(1, 2, 2, DType.F32)
    write, _ = steps(layer, 1, DType.F32, scale=1.0)
    memory = StateType("kv", (LayerState(1, 1, 1, DType.F32), layer))
    state = PagedState.allocate(memory, 2, 3)
    write([state, torch.ones(2, 1, 2), torch.ones(2, 1, 2), torch.tensor([-1, -1])], {})
    none = torch.ones(0, 1, 2)
    write([state, none, none, torch.zeros(0, dtype=torch.int64)], {})
    assert not state.keys[1].any()


def test_more_queries_than_tokens_is_an_error() -> None:
    layer = LayerState(1, 2, 2, DType.F32)
    _, attend = steps(layer, 1, DType.F32, scale=1.0)
    memory = StateType("kv", (LayerState(1, 1, 1, DType.F32), layer))
    state = PagedState.allocate(memory, 2, 3)
    starts, lengths = torch.tensor([0, 3]), torch.tensor([2])
    with pytest.raises(IRError, match="more queries than tokens"):
        attend([torch.ones(3, 1, 2), state, starts, lengths, torch.tensor([[0]])], {})


def test_decodes_in_groups_agree_with_decodes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LayerState(2, 8, 8, DType.F32)
    write, attend = steps(layer, 4, DType.F32, scale=0.3, window=6)
    memory = StateType("kv", (LayerState(1, 1, 1, DType.F32), layer))
    state = PagedState.allocate(memory, 40, 4, fill=math.nan)
    lengths = [9, 1, 30, 4, 17, 8, 9]
    tables = torch.full((7, 8), -1, dtype=torch.int32)
    free = iter(torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist())
    for s, length in enumerate(lengths):
        for j in range(-(-length // 4)):
            tables[s, j] = next(free)
        slots = [int(tables[s, j // 4]) * 4 + j % 4 for j in range(length)]
        write([state, *torch.randn(2, length, 2, 8), torch.tensor(slots)], {})
    query, starts = torch.randn(7, 4, 8), torch.arange(8, dtype=torch.int32)
    held = torch.tensor(lengths, dtype=torch.int32)
    (together,) = attend([query, state, starts, held, tables], {})
    monkeypatch.setattr(reference_attention, "_MAX_GATHERED", 16 * 40)
    (grouped,) = attend([query, state, starts, held, tables], {})
    monkeypatch.setattr(reference_attention, "_MAX_GATHERED", 0)
    (alone,) = attend([query, state, starts, held, tables], {})
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grouped, alone, rtol=1e-5, atol=1e-6)
