"""Sixteen doubles at a time: the exponential function that probabilities are made with."""

import numpy as np
import pytest

from tests.codegen.cpp.native import ISAS, compile_source, run_team

SOURCE = """
#include "wide.h"
#include "parallel.h"
using namespace gopt;
static void exponentials(const Step& step, Team&, void* const* a) {
  const float* x = static_cast<const float*>(a[0]);
  double *y = static_cast<double*>(a[1]), *sums = static_cast<double*>(a[2]);
  for (int64_t i = 0; i < step.T; i += LANES) {
    const f64x16 one = exp_negative(widen(load(x + i)) - 1.0);
    f64x16 twice = one;
    twice += one;
    store(y + i, one);
    sums[i / LANES] = sum(twice);
  }
}
"""


def exponentials(isa, x):
    """exp(x - 1), and twice its sum over each sixteen."""
    y, sums = np.full(len(x), np.nan), np.full(len(x) // 16, np.nan)
    library = compile_source(SOURCE, isa, kernels=("exponentials",))
    run_team(library, "exponentials", [x, y, sums], sizes=(len(x), 1, 1, 1))
    return y, sums


@pytest.mark.parametrize("isa", ISAS)
def test_exp_is_right_to_two_units_in_the_last_place(isa):
    rng = np.random.default_rng(1)
    x = np.concatenate([-rng.random(4096), -700 * rng.random(4096), -rng.random(4096) * 1e-6])
    x = np.concatenate([x, np.linspace(-20, 0, 4096)]).astype(np.float32) + np.float32(1)
    y, sums = exponentials(isa, x)
    exact = np.exp(x.astype(np.longdouble) - 1)
    assert (np.abs(y - exact) <= 2 * np.spacing(exact.astype(np.float64))).all()
    assert np.allclose(sums, 2 * y.reshape(-1, 16).sum(axis=1), rtol=1e-15)


@pytest.mark.parametrize("isa", ISAS)
def test_the_ends_of_the_range(isa):
    x = np.full(16, -np.inf, dtype=np.float32)
    x[:5] = 1.0, -3e38, -708.0, -706.0, np.nextafter(np.float32(1), np.float32(0))
    y, _ = exponentials(isa, x)
    assert y[:3].tolist() == [1.0, 0.0, 0.0]
    assert y[3] == pytest.approx(np.exp(-707.0), rel=1e-15)
    assert y[4] < 1.0
    assert not y[5:].any()
