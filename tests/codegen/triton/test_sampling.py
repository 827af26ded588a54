"""The sampler of a GPU against numpy's, on rows and parameters of every kind."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.interpreter import run
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.resources import SHARED_BYTES, resources_of
from graphopt.codegen.triton.sampling import (
    LEAST_TEMPERATURE,
    MOST_TOKENS,
    sampler,
)
from graphopt.ir.dtype import DType
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ledger import Verdict
from graphopt.loop_kernels import SAMPLE_OPERANDS, SAMPLE_RESULTS
from graphopt.runtime.executor import F32, Sampled, SamplingInputs
from graphopt.runtime.executors.gpu.sampler import operands
from graphopt.runtime.sampler import sample
from graphopt.runtime.sampling_params import GREEDY_TEMPERATURE
from tests.codegen.cpp.sampling_cases import disagreements, random_inputs, random_logits

# How close a sum of probabilities may come to its bound before either side of it is right.
TIE = 2e-8
GUARD = 8
SIZES = (1, 2, 17, 100, 1000, 1024, 1025, 2049)


@cache
def kernel_of(vocab: int, dtype: DType = DType.F32) -> TritonKernel:
    found = sampler(dtype, vocab)
    assert isinstance(found, TritonKernel)
    return found


def sampled(logits: F32, inputs: SamplingInputs, dtype: DType = DType.F32) -> Sampled:
    """What the kernel makes of rows; nothing is written past any end."""
    rows, vocab = logits.shape
    kernel = kernel_of(vocab, dtype)
    most = 0 if inputs.num_logprobs is None else min(int(inputs.num_logprobs.max(initial=0)), vocab)
    given = {name: torch.from_numpy(one) for name, one in operands(inputs).items()}
    assert list(given) == list(SAMPLE_OPERANDS)
    for name, one in given.items():
        assert one.dtype == torch_dtype(SAMPLE_OPERANDS[name]), name
    results: dict[str, torch.Tensor] = {}
    for name, type_ in SAMPLE_RESULTS.items():
        count = rows * max(most, 0) if name.startswith("top_") else rows
        results[name] = torch.full((count + GUARD,), 77, dtype=torch_dtype(type_))
    workspace = torch.zeros(evaluate(kernel.workspace, {"R": rows}) + GUARD, dtype=torch.uint8)
    x = torch.from_numpy(logits).to(torch_dtype(dtype))
    pointers = [x, *given.values(), *results.values(), workspace]
    run(kernel, kernel.variants[0], pointers, {"R": rows, "K": max(most, 0)})
    assert not workspace[-GUARD:].any()
    assert all((one[-GUARD:] == 77).all() for one in results.values())
    found: dict[str, Any] = {name: one[:-GUARD].numpy() for name, one in results.items()}
    status = found["status"] if found["status"].any() else None
    if inputs.num_logprobs is None:
        return Sampled(found["token_ids"], status)
    tops = [found[name].reshape(rows, -1) for name in ("top_ids", "top_logprobs")]
    return Sampled(found["token_ids"], status, found["logprobs"], found["ranks"], *tops)


def check(seed: int, rows: int, vocab: int) -> int:
    rng = np.random.default_rng(seed)
    logits = np.stack([random_logits(rng, vocab) for _ in range(rows)])
    inputs = random_inputs(rng, rows, vocab)
    with np.errstate(all="ignore"):
        got, expected = sampled(logits, inputs), sample(logits, inputs)
        return disagreements(logits, inputs, got, expected, TIE)


@pytest.mark.interpreted
@pytest.mark.parametrize("vocab", SIZES)
def test_tokens_are_those_of_numpy(vocab: int) -> None:
    assert sum(check(seed, 3, vocab) for seed in range(4 if vocab < 1000 else 2)) == 0


@pytest.mark.interpreted
@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 130))
def test_tokens_of_many_kinds(seed: int) -> None:
    for vocab in SIZES:
        assert check(seed, 4, vocab) <= 1


def row(**parameters: Any) -> SamplingInputs:
    """Parameters of one row, each an array of one number."""
    given = {name: np.array([value]) for name, value in parameters.items() if name != "seed"}
    for name, dtype in (("temperature", "f4"), ("top_p", "f4"), ("min_p", "f4"), ("top_k", "i8")):
        if name in given:
            given[name] = given[name].astype(dtype)
    numbers = [np.array([number], np.uint64) for number in (parameters.get("seed", 0), 1, 2)]
    seeds, streams, counters = numbers
    return SamplingInputs(1, **given, seeds=seeds, streams=streams, counters=counters)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 50, "top_p": 0.95},
        {"temperature": 1.5, "top_k": 300},  # more than there are parts
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_usual_parameters_in_a_larger_vocabulary(parameters: dict[str, float]) -> None:
    vocab = 9001  # several chunks of several tiles, and a tile that is not full
    rng = np.random.default_rng(5)
    logits = (3 * rng.standard_normal((1, vocab))).astype(np.float32)
    for seed in range(4):
        inputs = row(**parameters, seed=seed)
        assert sampled(logits, inputs).token_ids == sample(logits, inputs).token_ids


@pytest.mark.interpreted
@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
def test_narrow_logits(dtype: DType) -> None:
    rng = np.random.default_rng(3)
    narrow = torch.from_numpy(4 * rng.standard_normal((2, 1500))).to(torch_dtype(dtype))
    logits = narrow.float().numpy()
    inputs = random_inputs(rng, 2, 1500)
    with np.errstate(all="ignore"):
        got, expected = sampled(logits, inputs, dtype), sample(logits, inputs)
        assert disagreements(logits, inputs, got, expected, TIE) == 0


@pytest.mark.interpreted
def test_a_row_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(11)
    logits = rng.standard_normal((3, 1300)).astype(np.float32)
    inputs = random_inputs(rng, 3, 1300)
    together = sampled(logits, inputs)
    for one in range(3):
        alone = sampled(logits[one : one + 1], inputs.slice(one, one + 1))
        assert alone.token_ids[0] == together.token_ids[one]


def test_greedy_is_what_the_runtime_says() -> None:
    assert LEAST_TEMPERATURE == GREEDY_TEMPERATURE
    assert f">= {GREEDY_TEMPERATURE}" in kernel_of(100).text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vocab", "arch"),
    [
        pytest.param(vocab, arch, marks=[] if (vocab, arch) == (262144, 90) else [pytest.mark.full])
        for vocab in (100, 1500, 5000, 128256, 151936, 262144)
        for arch in (80, 90)
    ],
)
@pytest.mark.parametrize(
    "dtype",
    [DType.F32, pytest.param(DType.BF16, marks=pytest.mark.full)],
    ids=lambda one: one.value,
)
def test_nothing_spills(vocab: int, arch: int, dtype: DType) -> None:
    kernel = kernel_of(vocab, dtype)
    (variant,) = kernel.variants
    for launch in variant.launches:
        taken = resources_of(compile_variant(kernel, launch, arch))
        assert taken.problems() == []
        assert taken.shared_bytes <= SHARED_BYTES[89]
        assert taken.wide_loads


def test_launches_follow_the_rows() -> None:
    (variant,) = kernel_of(128256).variants
    prepare, weigh, choose = variant.launches
    sizes = {"R": 5, "K": 0}
    assert prepare.programs(sizes) == weigh.programs(sizes) == (5, 126, 1)
    assert choose.programs(sizes) == (5, 1, 1)


@pytest.mark.parametrize(("vocab", "warps"), [(100, 8), (2049, 16), (262144, 16)])
def test_a_thread_has_as_many_numbers_in_every_vocabulary(vocab: int, warps: int) -> None:
    (variant,) = kernel_of(vocab).variants
    assert variant.launches[-1].num_warps == warps


@pytest.mark.parametrize(
    ("dtype", "vocab"), [(DType.F64, 10), (DType.F32, 0), (DType.F32, MOST_TOKENS + 1)]
)
def test_what_is_not_sampled_is_refused(dtype: DType, vocab: int) -> None:
    assert isinstance(sampler(dtype, vocab), Verdict)
