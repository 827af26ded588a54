"""What the wrapper passes on, and what it refuses. The choice itself: tests/codegen/cpp."""

import ctypes
import re

import numpy as np
import pytest

from graphopt.errors import ArtifactError, UsageError
from graphopt.runtime.executor import Masks, Penalties, Ragged, RowStatus, SamplingInputs
from graphopt.runtime.executors.native_sampler import Lists, MaskArgs, NativeSampler, SampleArgs
from graphopt.runtime.sampler import sample
from tests.codegen.cpp.native import ISAS, compile_source
from tests.codegen.cpp.sampling_cases import DTYPES, disagreements, held, sampler_library

ROWS, V = 6, 700


@pytest.fixture(scope="module")
def library():
    return sampler_library(ISAS[0])


@pytest.fixture
def sampler(library):
    return NativeSampler(library, "f32", V, ROWS, threads=2)


def logits_for(rows=ROWS):
    return np.random.default_rng(5).standard_normal((rows, V)).astype(np.float32)


def lists(*tokens, value=0.0):
    starts = np.cumsum([0, *map(len, tokens)]).astype(np.int64)
    flat = np.array([token for one in tokens for token in one], dtype=np.int64)
    return Ragged(starts, flat, np.full(len(flat), value, dtype=np.float32))


def everything():
    """Parameters of all kinds in one batch."""

    def f32(*values):
        return np.array(values, dtype=np.float32)

    def i64(*values):
        return np.array(values, dtype=np.int64)

    return SamplingInputs(
        ROWS,
        targets=i64(-1, -1, -1, -1, -1, 9),
        temperature=f32(0, 1, 0.7, 2, 1, 1),
        top_k=i64(0, 40, 0, 0, 5, 0),
        top_p=f32(1, 0.9, 0.8, 1, 1, 1),
        min_p=f32(0, 0, 0, 0.01, 0, 0),
        penalties=Penalties(
            f32(1.5, 1, 1, 2, 1, 1),
            f32(0, 1, 0, 0, 0, 0),
            f32(0, 0, 0.5, 0, 0, 0),
            lists([1, 2], [3], [4, 5, 6], [7], [], [], value=2.0),
        ),
        bias=lists([], [8, 9], [], [], [], [], value=4.0),
        allowed=lists([], [], [], [], [10, 11, 12], []),
        banned=lists([], [13], [], [], [11], []),
        masks=Masks(i64(-1, -1, 1, 0, -1, -1), np.array([[0x55] * 22, [0xF0F] * 22], np.uint32)),
        seeds=np.full(ROWS, 2**63, dtype=np.uint64),
        streams=np.arange(ROWS, dtype=np.uint64),
        counters=np.full(ROWS, 2**40, dtype=np.uint64),
        num_logprobs=i64(3, -1, 0, 5, 2, 4),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_parameter_arrives(library, dtype):
    logits, values = held(logits_for(), dtype)
    inputs = everything()
    got = NativeSampler(library, dtype, V, ROWS, threads=2).sample(logits, inputs)
    assert disagreements(values, inputs, got, sample(values, inputs)) == 0


def test_logits_may_be_an_address(sampler):
    logits = logits_for()
    got = sampler.sample(logits.ctypes.data, SamplingInputs(ROWS))
    assert got.token_ids.tolist() == logits.argmax(axis=1).tolist()
    assert got.status is None
    assert got.logprobs is None


def test_logits_are_not_changed(sampler):
    logits = logits_for()
    sampler.sample(logits, everything())
    assert np.array_equal(logits, logits_for())


def test_logits_that_nobody_else_holds_live_until_the_call_returns(sampler):
    expected = logits_for().argmax(axis=1).tolist()
    banned = lists([0], [], [], [], [], [])
    for _ in range(50):
        got = sampler.sample(logits_for(), SamplingInputs(ROWS, banned=banned))
        assert got.token_ids.tolist() == expected


def test_calls_may_have_fewer_rows_or_none(sampler):
    logits = logits_for()
    for rows in (0, 1, 2, 5, ROWS):
        got = sampler.sample(logits[:rows], SamplingInputs(rows))
        assert got.token_ids.tolist() == logits[:rows].argmax(axis=1).tolist()
    with pytest.raises(UsageError, match="too many rows"):
        sampler.sample(logits_for(ROWS + 1), SamplingInputs(ROWS + 1))


def test_a_row_that_is_not_sound_says_so_alone(sampler):
    logits = logits_for()
    logits[1, 3], logits[2, 4], logits[4] = np.nan, np.inf, -np.inf
    got = sampler.sample(logits, SamplingInputs(ROWS))
    bad, empty = RowStatus.NOT_FINITE, RowStatus.NOTHING_LEFT
    assert got.status.tolist() == [0, bad, bad, 0, empty, 0]
    assert got.token_ids[5] == logits[5].argmax()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": np.ones(ROWS)}, r"temperature.*\n.*float64.*\n.*float32"),
        ({"temperature": np.ones(ROWS, np.float32)}, "no seeds"),
        ({"top_k": np.ones(2 * ROWS, np.int64)[::2]}, "contiguous"),
        ({"num_logprobs": np.ones(ROWS + 1, np.int64)}, "num_logprobs"),
        ({"bias": lists([1], [2])}, r"bias.starts"),
        ({"targets": np.full(ROWS, V)}, f"below {V}"),
    ],
)
def test_arrays_of_another_kind_are_refused(sampler, parameters, message):
    with pytest.raises(UsageError) as error:
        sampler.sample(logits_for(), SamplingInputs(ROWS, **parameters))
    assert re.search(message, str(error.value))


def test_logits_of_another_type_are_refused(sampler):
    with pytest.raises(UsageError, match="logits"):
        sampler.sample(logits_for().astype(np.float16), SamplingInputs(ROWS))


def test_lists_that_end_too_early_are_refused(sampler):
    short = lists([1], [2], [], [], [], [])
    short.starts[-1] = 3
    with pytest.raises(UsageError, match="fewer entries"):
        sampler.sample(logits_for(), SamplingInputs(ROWS, banned=short))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (Masks(np.zeros(ROWS, np.int64), np.zeros((0, 22), np.uint32)), "fewer masks"),
        (Masks(np.zeros(ROWS, np.int64), np.zeros((1, 21), np.uint32)), "masks.words"),
        (Masks(np.zeros(ROWS, np.int64), np.zeros((1, 22), np.int32)), "masks.words"),
        (Masks(np.zeros(2, np.int64), np.zeros((1, 22), np.uint32)), "masks.rows"),
    ],
)
def test_masks_of_another_kind_are_refused(sampler, masks, message):
    with pytest.raises(UsageError, match=message):
        sampler.sample(logits_for(), SamplingInputs(ROWS, masks=masks))


def test_tokens_outside_the_vocabulary_touch_nothing(sampler):
    outside = lists([V, V + 10**6, -1], [], [], [], [], [], value=100.0)
    got = sampler.sample(logits_for(), SamplingInputs(ROWS, bias=outside))
    assert got.token_ids.tolist() == logits_for().argmax(axis=1).tolist()


def test_a_library_without_a_sampler_is_refused():
    library = compile_source('#include "vec.h"\n', ISAS[0])
    with pytest.raises(ArtifactError, match="no sampler for f32"):
        NativeSampler(library, "f32", V, ROWS, threads=1)


def test_logits_of_a_type_without_a_kernel_are_refused():
    library = compile_source('#include "vec.h"\n', ISAS[0])
    with pytest.raises(ArtifactError, match="no kernel samples f64 logits"):
        NativeSampler(library, "f64", V, ROWS, threads=1)


def test_the_structures_are_those_of_the_header():
    names = [name for name, _ in SampleArgs._fields_]
    fields = ", ".join(f"offsetof(SampleArgs, {name})" for name in names)
    source = f"""
#include <cstddef>
#include "sample.h"
extern "C" __attribute__((visibility("default"))) void layout(int64_t* out) {{
  using namespace gopt::sampling;
  const int64_t all[] = {{{fields}, sizeof(SampleArgs), sizeof(Lists), sizeof(Masks)}};
  std::copy(std::begin(all), std::end(all), out);
}}
"""
    found = np.zeros(len(names) + 3, dtype=np.int64)
    library = compile_source(source, ISAS[0], flags=("-O1",))
    library.layout(ctypes.c_void_p(found.ctypes.data))
    expected = [getattr(SampleArgs, name).offset for name in names]
    sizes = [ctypes.sizeof(one) for one in (SampleArgs, Lists, MaskArgs)]
    assert found.tolist() == [*expected, *sizes]
