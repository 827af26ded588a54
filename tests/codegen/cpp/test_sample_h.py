"""The native sampler against the numpy one, for which it stands in."""

import numpy as np
import pytest

from graphopt.runtime.executor import Sampled, SamplingInputs
from graphopt.runtime.executors.native_sampler import NativeSampler
from graphopt.runtime.sampler import sample
from tests.codegen.cpp.native import ISAS
from tests.codegen.cpp.sampling_cases import (
    DTYPES,
    SIZES,
    disagreements,
    held,
    random_inputs,
    random_logits,
    sampler_library,
)


def run(isa, dtype, logits, inputs, threads=1) -> Sampled:
    rows, vocab = logits.shape
    sampler = NativeSampler(sampler_library(isa), dtype, vocab, rows, threads)
    sampler._workspace[:] = 0xFF
    return sampler.sample(logits, inputs)


def compare(isa, seed, steps, vocab=None):
    """``steps`` batches of random rows; tokens that differ on a bound have to be few."""
    rng = np.random.default_rng(seed)
    rows = different = 0
    for _ in range(steps):
        size = vocab or int(rng.choice([*SIZES, rng.integers(1, 5000)]))
        count = int(rng.integers(1, 9))
        values = np.stack([random_logits(rng, size) for _ in range(count)])
        dtype = str(rng.choice(DTYPES))
        logits, values = held(values, dtype)
        inputs = random_inputs(rng, count, size)
        got = run(isa, dtype, np.ascontiguousarray(logits), inputs, int(rng.integers(1, 5)))
        with np.errstate(all="ignore"):
            different += disagreements(values, inputs, got, sample(values, inputs))
        rows += count
    # Rows of equal logits under top-p of a half are the ones on a bound.
    assert different <= max(3, rows // 300)


@pytest.mark.parametrize("isa", ISAS)
def test_rows_of_every_kind_give_the_tokens_of_numpy(isa):
    compare(isa, seed=1, steps=300)


@pytest.mark.parametrize("isa", ISAS)
def test_a_vocabulary_of_real_size(isa):
    compare(isa, seed=2, steps=4, vocab=50_257)


@pytest.mark.full
@pytest.mark.parametrize("isa", ISAS)
def test_tens_of_thousands_of_rows(isa):
    compare(isa, seed=3, steps=4000)
    compare(isa, seed=4, steps=30, vocab=151_936)


def random_rows(rows, vocab, **parameters):
    """Seeded parameters of rows, alike but for their random numbers."""
    counters = np.arange(rows, dtype=np.uint64)
    alike = {
        name: np.full(rows, value, np.int64 if name in ("top_k", "num_logprobs") else np.float32)
        for name, value in parameters.items()
    }
    zeros = np.zeros_like(counters)
    return SamplingInputs(rows, seeds=zeros, streams=zeros, counters=counters, **alike)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("parameters", [{}, {"top_p": 0.95}, {"top_k": 900}, {"min_p": 0.001}])
def test_the_number_of_threads_changes_nothing(isa, parameters):
    rows, vocab = 5, 30_011
    logits = np.random.default_rng(7).standard_normal((rows, vocab)).astype(np.float32)
    inputs = random_rows(rows, vocab, temperature=0.9, num_logprobs=8, **parameters)
    alone = run(isa, "f32", logits, inputs)
    for threads in (2, 3, 7):
        together = run(isa, "f32", logits, inputs, threads)
        for name in ("token_ids", "logprobs", "ranks", "top_ids", "top_logprobs"):
            assert np.array_equal(getattr(alone, name), getattr(together, name)), name


@pytest.mark.parametrize("isa", ISAS)
def test_samples_follow_the_distribution(isa):
    rows = 20_000
    logits = np.repeat(np.array([[0.0, 1.0, 2.0, -np.inf, 0.5]], dtype=np.float32), rows, axis=0)
    got = run(isa, "f32", logits, random_rows(rows, 5, temperature=0.8), threads=2)
    counts = np.bincount(got.token_ids, minlength=5)
    weights = np.exp(logits[0] / 0.8)
    expected = weights / weights.sum() * rows
    assert counts[3] == 0
    seen = expected > 0
    # Chi-square with 3 degrees of freedom: 16.3 is exceeded once in 1000.
    assert ((counts[seen] - expected[seen]) ** 2 / expected[seen]).sum() < 16.3


@pytest.mark.parametrize("isa", ISAS)
def test_the_first_of_equally_likely_tokens_make_up_the_nucleus(isa):
    logits = np.zeros((2000, 1000), dtype=np.float32)
    logits[:, 3::5] = 1.0  # 200 tokens, and 800 that are e times less likely
    likely = 200 * np.e
    mass = np.float32((likely + 100.5) / (likely + 800))
    inputs = random_rows(2000, 1000, temperature=1.0, top_p=mass)
    tokens = set(run(isa, "f32", logits, inputs).token_ids.tolist())
    others = [token for token in range(1000) if token % 5 != 3]
    assert tokens <= {*range(3, 1000, 5), *others[:101]}
    assert max(token for token in tokens if token % 5 != 3) > others[80]
