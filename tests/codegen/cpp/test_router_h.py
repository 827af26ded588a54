"""Routing one token: ties go to the expert that stands first, and groups limit the choice."""

from __future__ import annotations

import numpy as np
import pytest

from .native import compile_source, run_team
from .row_cases import EVERY_ISA

_SOURCE = """
#include "router.h"
namespace gopt {
static void ties(const Step&, Team&, void* const* a) {
  route<Scores::Softmax, 8>((const float*)a[0], nullptr,
                            {3, 1, 1, false, true, -INF, 0.f, 0.f, 1.f}, (float*)a[1],
                            (int64_t*)a[2]);
}
static void groups(const Step&, Team&, void* const* a) {
  route<Scores::Sigmoid, 8>((const float*)a[0], (const float*)a[3],
                            {2, 4, 1, true, false, -INF, 0.f, 0.f, 2.f}, (float*)a[1],
                            (int64_t*)a[2]);
}
}  // namespace gopt
using namespace gopt;
"""
_KERNELS = ("ties", "groups")


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_ties(isa: str) -> None:
    library = compile_source(_SOURCE, isa, kernels=_KERNELS, flags=("-O1",))
    logits = np.array([1, 5, 2, 5, 5, 0, 5, 1], np.float32)
    weights, ids = np.full(3, np.nan, np.float32), np.full(3, -1)
    run_team(library, "ties", [logits, weights, ids])
    np.testing.assert_array_equal(ids, [1, 3, 4])
    np.testing.assert_allclose(weights, 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("isa", EVERY_ISA)
def test_groups(isa: str) -> None:
    """The group with the best two together, not the one with the best expert; bias only chooses."""
    library = compile_source(_SOURCE, isa, kernels=_KERNELS, flags=("-O1",))
    logits = np.array([3, -9, 1, 1, -1, -1, 0, 0], np.float32)
    bias = np.array([0, 0, 0, 0.1, 0, 0, 0, 0], np.float32)
    weights, ids = np.full(2, np.nan, np.float32), np.full(2, -1)
    run_team(library, "groups", [logits, weights, ids, bias])
    np.testing.assert_array_equal(ids, [3, 2])
    np.testing.assert_allclose(weights, 2 / (1 + np.exp(-1.0)), rtol=1e-6)
