"""Attention in Triton: what is refused, and that every variant computes what the reference does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.triton.attention import attention_kernel
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState, TensorType
from graphopt.ledger import Verdict
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
def test_many_sequences_are_looked_through_in_parts() -> None:
    counts = [0] * 300
    counts[7], counts[270], counts[299] = 2, 1, 3
    lengths = [count + 4 if count else 0 for count in counts]
    case = Case(LayerState(1, 16, 16, F32), 16)
    batch = make_batch(case, lengths, counts, 3)
    kernel = kernel_of(case)
    out = computed(batch, kernel, variants_for(kernel, batch.sizes)[-1])
    assert (out[:6] - batch.expected()[:6]).abs().max() < 1e-5


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


@pytest.mark.interpreted
def test_results_do_not_depend_on_what_else_is_in_the_batch() -> None:
    case = Case(LayerState(1, 32, 32, F32), 4)
    alone, other = make_batch(case, [50], [1], 5), make_batch(case, [50, 9], [1, 4], 5)
    other.queries[0] = alone.queries[0]
    for memory, theirs in (
        (alone.memory.keys, other.memory.keys),
        (alone.memory.values, other.memory.values),
    ):
        for j in range(4):
            theirs[0][other.tables[0, j]] = memory[0][alone.tables[0, j]]
    kernel = kernel_of(case)
    variant = variants_for(kernel, other.sizes)[0]
    assert variant.constants["SPLITS"] > 1
    one, both = computed(alone, kernel, variant), computed(other, kernel, variant)
    assert torch.equal(one[0], both[0])


def test_layers_that_are_alike_share_a_kernel() -> None:
    one, other = kernel_of(Case(SMALL, 6)), kernel_of(Case(SMALL, 6))
    assert one.name == other.name
    assert "layer" not in one.text


def test_few_tokens_split_their_keys_and_have_a_workspace() -> None:
    kernel = kernel_of(Case(LayerState(8, 128, 128, BF16), 32, BF16))
    few = kernel.variant({"T": 1, "S": 1, "P": 512})
    assert few.constants["SPLITS"] > 8
    assert few.programs({"T": 1, "S": 1, "P": 512}) == (1, 8, few.constants["SPLITS"])
    assert kernel.pointers[-1] is None
    many = kernel.variant({"T": 4096, "S": 3, "P": 512})
    assert many.constants["SPLITS"] == 1
    assert many.constants["BLOCK_M"] >= 64


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
