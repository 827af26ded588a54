"""Attention in Triton: what is refused, and that every variant computes what the reference does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.triton.attention import attention_kernel
from graphopt.codegen.triton.interpreter import run
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import symbols
from graphopt.ir.types import LayerState, TensorType
from graphopt.ledger import Verdict
from graphopt.region import make_region

from . import attention_batch
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

F32, BF16, F16, F8, I8 = DType.F32, DType.BF16, DType.F16, DType.F8E4M3, DType.I8
# Every function and operator of expressions; scores stay small.
SCORE = (
    "where((q - k < 3) & ((head == 2) == 0) | (sequence >= 1),"
    " score - pow(0.5, head + 1.0) * (q - k),"
    " tanh(score) + sin(k) * cos(q) - erf(abs(score)) + maximum(minimum(score, 1), -1)"
    " + log1p(abs(k)) / sqrt(q + 1) - rsqrt(q + 2) + exp(-abs(score)) - log(q + 1) / 9"
    " + floor(score) / 4 + ceil(score) / 8 + round(score) / 16 + tan(score / 20))"
)
MASK = "(floor_div(k, 4) == floor_div(q, 4)) | (remainder(k, 5) < 2) & (k > 0)"
SMALL = LayerState(2, 16, 24, F32)

CASES = {
    "grouped heads that are no power of two": Case(SMALL, 6),
    "a window and a softcap, queries in a row of all": Case(
        SMALL, 6, window=9, softcap=2.0, form="split"
    ),
    "blocks that no tile fits, queries beside keys": Case(SMALL, 6, block=48, form="select"),
    "sinks and ALiBi": Case(SMALL, 6, sinks=True, alibi=True),
    "sinks with a window": Case(LayerState(2, 64, 64, BF16), 8, BF16, sinks=True, window=6),
    "a user's expressions": Case(SMALL, 6, alibi=True, softcap=3.0, score=SCORE, mask=MASK),
    "a constant score": Case(SMALL, 6, score="1.5", mask="sequence < 2"),
    "a negative scale, one key seen": Case(LayerState(2, 16, 16, F32), 2, scale=-0.3, window=1),
    "a key in two parts": Case(LayerState(2, 80, 80, BF16), 4, BF16, block=32),
    "other values than keys": Case(LayerState(1, 192, 128, F16), 7, F16, block=64, window=20),
    "large heads": Case(LayerState(1, 256, 256, BF16), 2, BF16, block=128, softcap=50.0),
    "one head of keys, bf16 in f32": Case(LayerState(1, 64, 64, F32), 8, BF16),
    "fp8": Case(LayerState(2, 64, 64, F8), 8, BF16),
    "int8": Case(LayerState(2, 64, 64, I8), 8, F16, sinks=True),
    "latent": Case(LayerState(1, 48, 32, F32), 20, latent=True),
    "latent in bf16 with a window": Case(
        LayerState(1, 40, 24, BF16), 20, BF16, latent=True, window=7
    ),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("name", CASES)
def test_mixed_batches(name: str) -> None:
    check(make_batch(CASES[name], [36, 7, 0, 33, 5], [3, 7, 0, 1, 1], 1))


@pytest.mark.interpreted
@pytest.mark.full
def test_latent_attention_of_deepseek() -> None:
    check(
        make_batch(Case(LayerState(1, 576, 512, BF16), 18, BF16, latent=True), [36, 5], [3, 5], 1)
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Ragged batches of all kinds of attention."""
    dtype = draw(st.sampled_from([F32, F32, BF16, F16]))
    heads, group = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 3, 4, 17]))
    latent = draw(st.booleans())
    key, value = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    layer = LayerState(1 if latent else heads, key, min(key, value) if latent else value, dtype)
    expressions = draw(st.booleans())
    case = Case(
        layer,
        layer.heads * group,
        dtype,
        block=draw(st.sampled_from([16, 32, 48, 64, 128])),
        latent=latent,
        window=draw(st.sampled_from([0, 0, 1, 5, 16, 33])),
        softcap=draw(st.sampled_from([0.0, 0.0, 5.0])),
        sinks=draw(st.booleans()),
        alibi=draw(st.booleans()),
        reach=draw(st.booleans()),
        score="score - abs(q - k) / (head + 2)" if expressions else "",
        mask="(remainder(k + sequence, 3) < 2) | (k == q)" if expressions else "",
        form=draw(st.sampled_from(["plain", "split", "select"])),
    )
    counts = draw(st.lists(st.sampled_from([0, 1, 1, 2, 5, 11]), min_size=1, max_size=4))
    lengths = [count + draw(st.sampled_from([0, 0, 1, 16, 31])) for count in counts]
    return make_batch(case, lengths, counts, draw(st.integers(0, 99)), draw(st.integers(0, 3)))


@pytest.mark.interpreted
@settings(max_examples=6, deadline=None, derandomize=True)
@given(batches())
def test_ragged_batches(batch: Batch) -> None:
    check(batch)


@pytest.mark.interpreted
@pytest.mark.full
@settings(max_examples=60, deadline=None)
@given(batches())
def test_many_ragged_batches(batch: Batch) -> None:
    check(batch)


@pytest.mark.interpreted
def test_many_sequences_are_looked_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphopt.codegen.triton.attention._SEARCH", 8)
    counts = [0] * 20
    counts[3], counts[7], counts[12], counts[19] = 2, 1, 1, 3
    lengths = [count + 40 if count else 0 for count in counts]
    check(make_batch(Case(LayerState(1, 16, 16, F32), 16), lengths, counts, 3))


@pytest.mark.interpreted
def test_rows_that_see_nothing_are_zeros() -> None:
    case = Case(LayerState(1, 16, 16, F32), 2, mask="(k >= 20) & (head < 1)")
    batch = make_batch(case, [30, 33], [30, 1], 1)
    check(batch)
    kernel = kernel_of(case)
    for variant in variants_for(kernel, batch.sizes):
        out = computed(batch, kernel, variant)
        assert not out[:20].any()
        assert not out[:31, 1].any()


@pytest.mark.interpreted
def test_a_step_of_no_sequence_writes_nothing() -> None:
    case = Case(LayerState(1, 16, 16, F32), 2)
    for counts in ([], [0, 0]):
        batch = make_batch(case, counts, counts, 1, padding=3)
        kernel = kernel_of(case)
        for variant in variants_for(kernel, batch.sizes):
            assert computed(batch, kernel, variant).isnan().all()


def _records(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, variant: Variant
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a variant gives, and which records it left, by unit: [2 EXTRA, units]."""
    kernel, workspaces = kernel_of(batch.case), []

    def keeping(*args: Any) -> None:
        run(*args)
        workspaces.append(args[2][-1].clone())

    monkeypatch.setattr(attention_batch, "run", keeping)
    out = computed(batch, kernel, variant)
    stats_at = int(kernel.text.split("(workspace + ")[2].split(")")[0])
    totals = workspaces[0][stats_at : stats_at + (len(workspaces[0]) - stats_at) // 8 * 8]
    left = totals.view(torch.float32)[1::2] != 0
    constants, units = variant.constants, variant.programs(batch.sizes)[1]
    size = 2 * constants["EXTRA"] * units * constants["BLOCK_M"]
    assert not left[size:].any(), "more is split than there is room for"
    return out, left[:size].view(2 * constants["EXTRA"], units, -1).any(2)


@pytest.mark.interpreted
def test_a_long_decode_beside_a_prompt_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part leaves a record; the tiles of the prompt, which are shorter, stay whole."""
    case = Case(LayerState(2, 16, 16, BF16), 4, BF16)
    batch = make_batch(case, [90, 1100, 7], [90, 1, 2], 2)
    for variant in variants_for(kernel_of(case), batch.sizes):
        out, left = _records(monkeypatch, batch, variant)
        assert left.sum(0).tolist() in ([3, 3], [4, 4]), variant
        rows = batch.rows
        assert (out[:rows].double() - batch.expected()[:rows]).norm() < 1e-2 * rows**0.5


@pytest.mark.interpreted
@pytest.mark.parametrize("reach", [False, True])
def test_parts_find_room_for_their_sums(monkeypatch: pytest.MonkeyPatch, reach: bool) -> None:
    case = Case(LayerState(1, 16, 16, F32), 4, window=40 if reach else 0, reach=reach)
    for lengths, counts in (
        ([33, 65, 97, 129], [1, 1, 1, 1]),
        ([300], [30]),
        ([40, 300, 33], [1, 2, 33]),
    ):
        batch = make_batch(case, lengths, counts, 4)
        for variant in variants_for(kernel_of(case), batch.sizes):
            _records(monkeypatch, batch, variant)


@pytest.mark.interpreted
def test_results_do_not_depend_on_the_order_of_sequences() -> None:
    case = Case(LayerState(2, 32, 32, F32), 4)
    one = make_batch(case, [50, 140, 9], [1, 2, 4], 5)
    other = make_batch(case, [140, 9, 50], [2, 4, 1], 5)
    other.queries[:7] = one.queries[[1, 2, 3, 4, 5, 6, 0]]
    other = replace(other, memory=one.memory, tables=one.tables[[1, 2, 0]])
    other.sizes["P"] = one.tables.shape[1]
    kernel = kernel_of(case)
    for variant in variants_for(kernel, one.sizes):
        first, second = computed(one, kernel, variant), computed(other, kernel, variant)
        assert torch.equal(first[:7][[1, 2, 3, 4, 5, 6, 0]], second[:7])


def test_layers_that_are_alike_share_a_kernel() -> None:
    one, other = kernel_of(Case(SMALL, 6)), kernel_of(Case(SMALL, 6))
    assert one.name == other.name
    assert "layer" not in one.text


def test_a_launch_depends_on_tokens_and_sequences_alone() -> None:
    kernel = kernel_of(Case(LayerState(8, 128, 128, BF16), 32, BF16))
    assert kernel.pointers[-1] is None
    one = {"T": 1, "S": 1, "P": 512}
    few = kernel.variant(one)
    assert few.programs(one)[1:] == (8, 1)
    assert few.programs(one)[0] >= few.constants["SPLITS"] > 8
    many = kernel.variant({"T": 4096, "S": 3, "P": 512})
    assert many.constants["BLOCK_M"] >= 64
    for variant in kernel.variants:
        names = {name for count in variant.grid for name in symbols(count)}
        assert names <= {"T", "S"}


def _refusal(case: Case) -> str:
    verdict = attention_kernel(*region_of(case), case.block)
    assert isinstance(verdict, Verdict)
    assert not verdict.accepted
    return verdict.reason


def test_what_is_refused() -> None:
    narrow = LayerState(2, 16, 16, F32)
    assert "f64" in _refusal(Case(narrow, 2, DType.F64))
    assert "f64" in _refusal(Case(LayerState(2, 16, 16, DType.F64), 2))
    assert "multiple of 16" in _refusal(Case(narrow, 2, block=24))


def test_queries_that_do_not_lie_side_by_side_are_refused() -> None:
    case = Case(LayerState(2, 16, 16, F32), 2)
    graph, _ = region_of(case)
    b = GraphBuilder("attend")
    inputs = {value.name: value for value in graph.inputs}
    turned = b.input("q", TensorType(F32, (T, 16, 2)))
    (query,) = b.node("permute", [turned], {"dims": (0, 2, 1)})
    others = [b.input(name, inputs[name].type) for name in ("kv", "starts", "lengths", "tables")]
    (out,) = b.node("attention", [query, *others], case.attrs)
    graph = b.finish([out])
    verdict = attention_kernel(graph, make_region(graph, range(2), family="attention"), 16)
    assert not isinstance(verdict, TritonKernel)
    assert "side by side" in verdict.reason
