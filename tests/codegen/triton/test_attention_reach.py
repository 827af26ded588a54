"""Attention that sees what comes after a token: encoders, spans in a text, windows both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from graphopt.codegen.triton.attention import attention_kernel
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState, TensorType
from graphopt.region import make_region

from .attention_batch import (
    Batch,
    Case,
    T,
    check,
    computed,
    kernel_of,
    make_batch,
    region_of,
    variants_for,
)
from .test_attention import CASES

F32, BF16 = DType.F32, DType.BF16
ENCODER = Case(LayerState(2, 64, 64, BF16), 2, BF16, reach=True, scale=0.2)
DECODER = Case(LayerState(1, 16, 16, F32), 4, reach=True)
# Spans of positions whose tokens see one another, by sequence.
Spans = Sequence[Sequence[tuple[int, int]]]


def spanned(batch: Batch, spans: Spans) -> Batch:
    """The batch, in which rows reach to the end of their span, if they are in one."""
    reaches = torch.zeros_like(batch.reaches)
    for row, position, sequence in _rows(batch):
        for first, last in spans[sequence]:
            if first <= position < last:
                reaches[row] = last
    return replace(batch, reaches=reaches)


def _rows(batch: Batch) -> list[tuple[int, int, int]]:
    """Each row, where it stands, and whose it is."""
    found = []
    for s, length in enumerate(batch.lengths.tolist()):
        first, last = batch.starts[s : s + 2].tolist()
        found += [(row, length - last + row, s) for row in range(first, last)]
    return found


def literally(batch: Batch, spans: Spans) -> torch.Tensor:
    """PyTorch's attention in float64, with a mask that says of each pair whether it is seen."""
    case, attend = batch.case, torch.nn.functional.scaled_dot_product_attention
    out = torch.zeros(batch.rows, case.heads, case.layer.value_size, dtype=torch.float64)
    for s, length in enumerate(batch.lengths.tolist()):
        rows = torch.tensor([row for row, _, owner in _rows(batch) if owner == s])
        p = torch.tensor([place for _, place, owner in _rows(batch) if owner == s])[:, None]
        j = torch.arange(length)[None, :]
        seen = j <= p
        for first, last in spans[s]:
            seen |= (first <= p) & (p < last) & (first <= j) & (j < last)
        if case.window:
            seen &= (j - p).abs() < case.window
        low = int(seen.any(0).float().argmax())
        slots = [int(batch.tables[s, k // case.block]) for k in range(low, length)]
        keys, values = (
            stored[0][slots, [k % case.block for k in range(low, length)]].double().transpose(0, 1)
            for stored in (batch.memory.keys, batch.memory.values)
        )
        queries = batch.queries[rows].double().transpose(0, 1)
        mask = seen[:, low:]
        made = attend(queries, keys, values, mask, scale=case.scale, enable_gqa=True)
        out[rows] = made.transpose(0, 1)
    return out


def check_literally(batch: Batch, spans: Spans) -> None:
    batch = spanned(batch, spans)
    expected = literally(batch, spans)
    torch.testing.assert_close(batch.expected()[: batch.rows], expected, rtol=1e-9, atol=1e-9)
    check(batch)


@pytest.mark.interpreted
@pytest.mark.parametrize("window", [0, 9, 65])
def test_whole_encoders(window: int) -> None:
    lengths = [131, 1, 67, 64]
    batch = make_batch(replace(ENCODER, window=window), lengths, lengths, 1)
    check_literally(batch, [[(0, length)] for length in lengths])


@pytest.mark.interpreted
@pytest.mark.parametrize("window", [0, 11])
def test_images_in_texts(window: int) -> None:
    """A span in the middle, one that a chunk begins in, two side by side, and a decode's."""
    batch = make_batch(replace(DECODER, window=window), [90, 61, 40, 30], [90, 40, 40, 1], 2)
    check_literally(batch, [[(20, 70)], [(10, 50)], [(3, 17), (17, 31)], [(10, 30)]])


@pytest.mark.interpreted
@pytest.mark.parametrize("name", [name for name in CASES if name != "large heads"])
def test_mixed_batches(name: str) -> None:
    check(make_batch(replace(CASES[name], reach=True), [36, 7, 0, 33, 5], [9, 7, 0, 1, 2], 3))


@pytest.mark.interpreted
def test_large_heads_see_images() -> None:
    case = Case(LayerState(1, 256, 256, BF16), 2, BF16, block=128, window=40, reach=True)
    batch = make_batch(case, [90, 3], [80, 1], 4)
    check_literally(batch, [[(14, 85)], [(0, 3)]])


@pytest.mark.interpreted
def test_a_single_token_needs_no_reach() -> None:
    case = Case(LayerState(2, 16, 24, BF16), 6, BF16, window=20, sinks=True, reach=True)
    batch = make_batch(case, [40, 1, 300], [1, 1, 1], 5)
    causal = replace(batch, case=replace(case, reach=False))
    kernel, plain = kernel_of(case), kernel_of(causal.case)
    pairs = zip(variants_for(kernel, batch.sizes), variants_for(plain, batch.sizes), strict=True)
    for variant, other in pairs:
        expected = computed(causal, plain, other)[:3]
        for reach in (-(1 << 31), (1 << 31) - 1):
            batch.reaches.fill_(reach)
            assert torch.equal(computed(batch, kernel, variant)[:3], expected)


@pytest.mark.interpreted
@pytest.mark.parametrize("window", [0, 21])
def test_the_same_bits_in_any_batch(window: int) -> None:
    """A whole sequence in one step: its rows do not depend on what else is in it."""
    case = Case(LayerState(2, 16, 16, BF16), 4, BF16, window=window, reach=True)
    kernel = kernel_of(case, deterministic=True)
    (variant,) = kernel.variants
    alone = spanned(make_batch(case, [70], [70], 6), [[(0, 70)]])
    expected = computed(alone, kernel, variant)[:70]
    mixed = make_batch(case, [33, 70, 9], [4, 70, 9], 7)
    mixed = spanned(mixed, [[(0, 33)], [(0, 70)], [(2, 5)]])
    mixed.queries[4:74] = alone.queries[:70]
    for stored, own in zip(
        (mixed.memory.keys[0], mixed.memory.values[0]),
        (alone.memory.keys[0], alone.memory.values[0]),
        strict=True,
    ):
        stored[mixed.tables[1, :5].long()] = own[alone.tables[0, :5].long()]
    assert torch.equal(computed(mixed, kernel, variant)[4:74], expected)


@pytest.mark.interpreted
def test_parts_with_nothing_to_sum_up() -> None:
    """All tiles have as many parts as the longest would; the first ends within its first part."""
    case = replace(ENCODER, sinks=True, layer=LayerState(1, 64, 64, BF16))
    batch = spanned(make_batch(case, [200, 9], [200, 1], 9), [[(140, 180)], []])
    kernel = kernel_of(case)
    forced = {"EXTRA": 16, "SPLITS": 4, "LEAST": 0, "COLUMNS": 32}
    expected = batch.expected()[:201]
    for variant in variants_for(kernel, batch.sizes):
        grid = (variant.grid[0] - variant.constants["EXTRA"] + 16, variant.grid[1])
        split = replace(variant, constants={**variant.constants, **forced}, grid=grid)
        out = computed(batch, kernel, split)[:201].double()
        assert (out - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.interpreted
def test_no_more_is_read_than_rows_see() -> None:
    """No row of the tiles before the 64th token sees that: what lies there does not matter."""
    batch = spanned(make_batch(DECODER, [90], [90], 8), [[(10, 60)]])
    kernel, expected = kernel_of(DECODER), batch.expected()[:64]
    for j in range(64, 90):
        for stored in (batch.memory.keys[0], batch.memory.values[0]):
            stored[batch.tables[0, j // 16], j % 16] = float("nan")
    for variant in variants_for(kernel, batch.sizes):
        assert (64 * 4) % variant.constants["BLOCK_M"] == 64 % variant.constants["BLOCK_N"] == 0
        out = computed(batch, kernel, variant)[:64].double()
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_a_causal_kernel_knows_nothing_of_reaches() -> None:
    text = kernel_of(replace(DECODER, reach=False)).text
    assert not {"reaches", "ends", "furthest"} & {*text.replace("(", " ").split()}


def test_reaches_are_no_view() -> None:
    graph, _ = region_of(DECODER)
    b = GraphBuilder("attend")
    values = [b.input(value.name, value.type) for value in graph.inputs[:-1]]
    (reaches,) = b.node(
        "reshape", [b.input("wide", TensorType(DType.I32, (T, 1)))], {"shape": (T,)}
    )
    (out,) = b.node("attention", [*values, reaches], DECODER.attrs)
    graph = b.finish([out])
    verdict = attention_kernel(graph, make_region(graph, range(2), family="attention"), 16)
    assert not isinstance(verdict, TritonKernel)
    assert "view" in verdict.reason
