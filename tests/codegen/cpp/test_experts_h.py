"""Tokens are grouped by expert, in order; threads share panels without gaps; sizes are Python's."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.cpp.experts import experts_scratch_bytes, experts_workspace_bytes

from .native import ISAS, aligned, compile_source, run_team

# T tokens of R experts each, of S; ids of a token are P apart.
SOURCE = """
#include "experts.h"
using namespace gopt;
#define EXPORT extern "C" __attribute__((visibility("default"))) int64_t
EXPORT workspace(int64_t t, int64_t k, int64_t e, int64_t h, int64_t f) {
  return experts_workspace({t, k, e, h, f});
}
EXPORT scratch(int64_t hidden) { return experts_scratch(hidden); }
static void routes(const Step& step, Team&, void* const* a) {
  route({step.T, step.R, step.S, 1, 1}, Strided<int64_t>{(const int64_t*)a[0], step.P, 1},
        {(int32_t*)a[1], (int32_t*)a[2]});
}
static void shares(const Step& step, Team& team, void* const* a) {
  for (int64_t number = 0; number < step.R; ++number) {
    int64_t first, last;
    expert_share(team, number, step.T, first, last);
    for (int64_t i = first; i < last; ++i) ((int32_t*)a[0])[number * step.T + i] = team.rank;
  }
}
"""


@cache
def library(isa: str) -> ctypes.CDLL:
    found = compile_source(SOURCE, isa, kernels=("routes", "shares"), flags=("-O1",))
    found.workspace.restype = found.scratch.restype = ctypes.c_int64
    found.workspace.argtypes = [ctypes.c_int64] * 5
    found.scratch.argtypes = [ctypes.c_int64]
    return found


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(0, 40),
    chosen=st.integers(1, 5),
    experts=st.integers(1, 9),
    spread=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_pairs_are_grouped_in_order(
    isa: str, tokens: int, chosen: int, experts: int, spread: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    ids = generator.integers(-2, experts + 2, (tokens + 1, chosen + spread))
    starts = aligned(4 * (experts + 2)).view(np.int32)
    pairs = aligned(4 * (tokens * chosen + 1)).view(np.int32)
    sizes = (tokens, chosen, experts, chosen + spread)
    run_team(library(isa), "routes", (ids, starts, pairs), sizes=sizes)
    flat = ids[:tokens, :chosen].reshape(-1)
    wanted = [np.flatnonzero(flat == expert) for expert in range(experts)]
    counts = [len(places) for places in wanted]
    assert starts[: experts + 1].tolist() == np.cumsum([0, *counts]).tolist()
    assert pairs[: sum(counts)].tolist() == np.concatenate(wanted).tolist()
    assert np.all(pairs[sum(counts) :] == -1)
    assert starts[experts + 1] == -1


@pytest.mark.parametrize("isa", ISAS)
def test_what_does_not_divide_falls_to_another_thread_each_time(isa: str) -> None:
    for panels, experts, threads in ((5, 6, 3), (1, 3, 3), (7, 4, 2)):
        ranks = aligned(4 * panels * experts).view(np.int32)
        run_team(library(isa), "shares", (ranks,), sizes=(panels, experts, 1, 1), threads=threads)
        each = np.bincount(ranks, minlength=threads)
        assert each.sum() == panels * experts
        assert each.max() - each.min() <= 1


@pytest.mark.parametrize("isa", ISAS)
def test_sizes_are_those_of_the_header(isa: str) -> None:
    for tokens, chosen, experts, hidden, narrow in ((0, 1, 1, 1, 1), (7, 3, 40, 37, 130)):
        assert library(isa).workspace(tokens, chosen, experts, hidden, narrow) == (
            experts_workspace_bytes(tokens, chosen, experts, hidden, narrow)
        )
        assert library(isa).scratch(hidden) == experts_scratch_bytes(hidden)
