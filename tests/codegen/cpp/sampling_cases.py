"""Rows of logits and parameters of every kind, and what the native sampler promises about them."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from graphopt.runtime.executor import F32, Masks, Penalties, Ragged, Sampled, SamplingInputs
from graphopt.runtime.philox import uniform
from graphopt.runtime.sampler import _filter, _keep_masked, _penalize
from graphopt.runtime.sampling_params import GREEDY_TEMPERATURE
from tests.codegen.cpp.native import compile_source

Array = npt.NDArray[np.generic]
SOURCE = """
#include "sample.h"
GOPT_SAMPLER(f32, float)
GOPT_SAMPLER(bf16, gopt::bf16)
GOPT_SAMPLER(f16, gopt::f16)
"""
DTYPES = ("f32", "bf16", "f16")
KINDS = ("plain", "plain", "plain", "coarse", "equal", "huge", "tiny", "peaked", "zeros")
SIZES = (1, 2, 3, 15, 16, 17, 100, 255, 256, 257, 1000, 2049)
# How close a sum of probabilities may come to its bound before either side of it is right.
TIE = 1e-12


def sampler_library(isa: str) -> ctypes.CDLL:
    """Samplers for logits of every type; optimisation that takes the compiler long is left out."""
    return compile_source(SOURCE, isa, flags=("-O1",))


def held(values: F32, dtype: str) -> tuple[Array, F32]:
    """``values`` rounded to ``dtype``: as the sampler reads them, and as float32."""
    if dtype == "f32":
        return values, values
    if dtype == "f16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        return half, half.astype(np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    bits = np.where(np.isnan(values), np.uint16(0x7FC0), bits)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def random_logits(rng: np.random.Generator, vocab: int) -> F32:
    """A row of some kind, f32[vocab], now and then with impossible, infinite or no numbers."""
    x = rng.standard_normal(vocab)
    match rng.choice(KINDS):
        case "plain":
            x *= rng.choice([0.01, 1, 3, 10])
        case "coarse":
            x = np.round(2 * x)
        case "equal":
            x[:] = x[0]
        case "huge":
            x *= 10.0 ** rng.integers(5, 34)
        case "tiny":
            x *= 10.0 ** -rng.integers(5, 40)
        case "peaked":
            x *= 0.1
            x[rng.integers(vocab)] = 40
        case "zeros":
            x = np.where(x < 0, 0.0, -0.0)
    row: F32 = x.astype(np.float32)
    chance = rng.random()
    if chance < 0.2:
        row[rng.random(vocab) < rng.random()] = -np.inf
    elif chance < 0.27:
        row[rng.integers(vocab)] = np.nan if chance < 0.23 else np.inf
    elif chance < 0.28:
        row[:] = -np.inf
    return row


def random_lists(
    rng: np.random.Generator, rows: int, vocab: int, low: float = 0, high: float = 0
) -> Ragged:
    """Lists of up to 40 tokens, half of them empty, with values from ``low`` to ``high``."""
    lists = [
        rng.choice(vocab, rng.integers(min(vocab, 40) + 1) * rng.integers(2), replace=False)
        for _ in range(rows)
    ]
    starts = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    tokens = np.concatenate(lists).astype(np.int64)
    return Ragged(starts, tokens, rng.uniform(low, high, len(tokens)).astype(np.float32))


def random_masks(rng: np.random.Generator, rows: int, vocab: int) -> Masks:
    """Masks of a third of the rows: with few tokens, with many, with none; bits beyond V too."""
    count = int(rng.integers(rows + 1))
    places = np.full(rows, -1, dtype=np.int64)
    places[rng.choice(rows, count, replace=False)] = rng.permutation(count)
    words = (vocab + 31) // 32
    bits = rng.random((count, words * 32)) < rng.choice([0, 0.01, 0.5, 1], (count, 1))
    bits[np.arange(count), rng.integers(vocab, size=count)] |= rng.random(count) < 0.9
    bits[:, vocab:] = rng.random() < 0.5
    packed = np.packbits(bits, axis=1, bitorder="little").view("<u4")
    return Masks(places, packed.astype(np.uint32))


def random_inputs(rng: np.random.Generator, rows: int, vocab: int) -> SamplingInputs:
    """Parameters, each there or not, from nothing to extreme."""

    def one_of(chance: float, values: tuple[float, ...], dtype: type[np.generic]) -> Array | None:
        wanted = rng.random() < chance
        return rng.choice(np.array(values).astype(dtype), rows) if wanted else None

    f32, i64 = np.float32, np.int64
    seen = random_lists(rng, rows, vocab, 0, 4)
    np.floor(seen.values, out=seen.values)
    many = (vocab, vocab + 3) if vocab < 3000 else ()
    numbers = rng.integers(0, 2**40, (3, rows)).astype(np.uint64)
    return SamplingInputs(
        rows,
        targets=one_of(0.2, (-1, -1, 0, vocab - 1, vocab // 2), i64),
        temperature=one_of(0.9, (0, 1e-6, 1e-5, 0.1, 0.5, 0.8, 1, 1, 2, 100, 1e15), f32),
        top_k=one_of(0.5, (0, 1, 2, 5, 50, vocab // 2, vocab - 1, vocab, vocab + 5), i64),
        top_p=one_of(0.5, (1, 0.99999994, 0.99, 0.9, 0.5, 0.1, 0.01, 1e-6), f32),
        min_p=one_of(0.5, (0, 1e-10, 0.01, 0.1, 0.5, 1), f32),
        penalties=Penalties(
            rng.choice(np.array((0.5, 1, 1.3, 2, 1e15), f32), rows),
            rng.choice(np.array((0, 0.5, -1), f32), rows),
            rng.choice(np.array((0, 0.3, -0.2, 1e15), f32), rows),
            seen,
        )
        if rng.random() < 0.4
        else None,
        bias=random_lists(rng, rows, vocab, -5, 5) if rng.random() < 0.4 else None,
        allowed=random_lists(rng, rows, vocab) if rng.random() < 0.3 else None,
        banned=random_lists(rng, rows, vocab) if rng.random() < 0.3 else None,
        masks=random_masks(rng, rows, vocab) if rng.random() < 0.3 else None,
        seeds=numbers[0],
        streams=numbers[1] & np.uint64(0xFF),
        counters=numbers[2],
        num_logprobs=one_of(0.4, (-1, 0, 1, 5, 20, *many), i64),
    )


def disagreements(
    logits: F32, inputs: SamplingInputs, got: Sampled, expected: Sampled, tie: float = TIE
) -> int:
    """How many tokens differ, each within the promise; anything else that differs is an error."""
    sound = np.ones(inputs.num_rows, dtype=np.bool_)
    assert (got.status is None) == (expected.status is None)
    if got.status is not None and expected.status is not None:
        assert np.array_equal(got.status, expected.status)
        sound = got.status == 0
    different = sound & (got.token_ids != expected.token_ids)
    for row in np.nonzero(different)[0]:
        assert on_a_bound(logits[row : row + 1], inputs.slice(row, row + 1), tie), (row, inputs)
    for name in ("logprobs", "ranks", "top_ids", "top_logprobs"):
        one, other = getattr(got, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert (one.dtype, one.shape) == (other.dtype, other.shape), name
            one, other = one[~different], other[~different]
            assert np.allclose(one, other, rtol=1e-6, atol=TIE, equal_nan=True), name
    return int(different.sum())


def on_a_bound(logits: F32, inputs: SamplingInputs, tie: float = TIE) -> bool:
    """Whether one row's token hangs on rounding: a sum within ``tie`` of its bound, or min-p's."""
    if inputs.temperature is None or inputs.temperature[0] < GREEDY_TEMPERATURE:
        return False
    work = _changed(logits, inputs) / inputs.temperature[0]
    if inputs.min_p is not None and inputs.min_p[0] > 0:
        peak, margin = work.max(), np.log(inputs.min_p[0])
        unit = np.spacing(max(np.abs(peak), np.abs(margin)))
        if (np.abs(work.astype(np.float64) - peak - margin) <= 4 * unit).any():
            return True
    zero = np.zeros(1, dtype=np.int64)
    if inputs.top_p is not None and inputs.top_p[0] < 1:
        all_but = SamplingInputs(1, top_k=inputs.top_k, min_p=inputs.min_p)
        sums = np.cumsum(np.sort(_probabilities(_filter(work.copy(), all_but, zero)))[::-1])
        if np.abs(sums - float(inputs.top_p[0])).min() < tie:
            return True
    sums = np.cumsum(_probabilities(_filter(work, inputs, zero)))
    number = uniform(*inputs.randomness())[0]
    return bool(np.abs(sums - number).min() < tie)


def _changed(logits: F32, inputs: SamplingInputs) -> F32:
    """One row's logits, changed by all that comes before the temperature."""
    work = logits.copy()
    if inputs.bias is not None:
        work[0, inputs.bias.tokens] += inputs.bias.values
    if inputs.allowed is not None and len(inputs.allowed.tokens):
        kept = work[0, inputs.allowed.tokens]
        work[:] = -np.inf
        work[0, inputs.allowed.tokens] = kept
    if inputs.penalties is not None:
        _penalize(work, inputs.penalties)
    if inputs.banned is not None:
        work[0, inputs.banned.tokens] = -np.inf
    if inputs.masks is not None:
        _keep_masked(work, inputs.masks)
    return work


def _probabilities(work: F32) -> npt.NDArray[np.longdouble]:
    wide = np.exp(work[0].astype(np.longdouble) - np.longdouble(work.max()))
    return np.asarray(wide / wide.sum())
