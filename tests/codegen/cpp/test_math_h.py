"""Functions of floats, sixteen at a time and one by one, within two units in the last place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from .native import ISAS, compile_source, run_team

Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]
# Units in the last place: of sixteen at a time, and the function in float64.
FUNCTIONS: dict[str, tuple[float, Callable[[Wide], Wide]]] = {
    "exp": (1.2, np.exp),
    "log": (1.2, np.log),
    "log1p": (3.0, np.log1p),
    "expm1": (3.0, np.expm1),
    "sin": (1.6, np.sin),
    "cos": (1.6, np.cos),
    "tan": (3.5, np.tan),
    "tanh": (2.2, np.tanh),
    "erf": (2.0, lambda x: torch.erf(torch.from_numpy(x)).numpy()),
    "sqrt": (0.51, np.sqrt),
    "rsqrt": (1.6, lambda x: 1 / np.sqrt(x)),
    "floor": (0.0, np.floor),
    "ceil": (0.0, np.ceil),
    "round": (0.0, np.rint),
    "abs": (0.0, np.abs),
}
_SOURCE = (
    """
#include "row.h"
namespace gopt {
template <class F>
static void apply(const Step& step, Team& team, void* const* a, const F& f) {
  const float* x = (const float*)a[0];
  float *many = (float*)a[1], *one = (float*)a[2];
  int64_t first, last;
  team.share(step.T, LANES, first, last);
  columns(first, last - first,
          [&](int64_t i, auto n) { store_n(many + i, f(load_n(x + i, n)), n); });
  for (int64_t i = first; i < last; ++i) one[i] = f(x[i]);
}
"""
    + "".join(
        f"static void {name}_of(const Step& s, Team& t, void* const* a) {{\n"
        f"  apply(s, t, a, [](auto x) {{ return {name}(x); }});\n}}\n"
        for name in FUNCTIONS
    )
    + """
static void integers(const Step& step, Team&, void* const* a) {
  const int64_t *x = (const int64_t*)a[0], *y = (const int64_t*)a[1];
  int64_t* out = (int64_t*)a[2];
  for (int64_t i = 0; i < step.T; ++i, out += 3) {
    out[0] = floor_div(x[i], y[i]);
    out[1] = remainder(x[i], y[i]);
    out[2] = pow(x[i], y[i] & 7);
  }
}
}  // namespace gopt
using namespace gopt;
"""
)
KERNELS = (*(f"{name}_of" for name in FUNCTIONS), "integers")
_SPECIAL = (
    "0 -0 inf -inf nan 1 -1 2 0.5 -0.5 1.5 2.5 -2.5 88.7228 89 -87.3 -103.9 -104.5 1e-40 -1e-40 "
    "1e-45 3.4e38 -3.4e38 8388607.5 -8388608 0.625 1e6 1599999 1600001 1e9 3e38 0.99999994 "
    "1.0000001 4 3.9999998 -4"
)


def _arguments(seed: int) -> Floats:
    """Every kind of number, every exponent, and a dense choice of what models compute with."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 1 << 32, 120_000, dtype=np.uint32).view(np.float32)
    near = rng.normal(0, 1, 60_000) * rng.choice([0.1, 1.0, 10.0, 60.0], 60_000)
    angles = rng.uniform(-1e6, 1e6, 60_000)
    quarters = rng.integers(-650_000, 650_000, 20_000) * (np.pi / 2)  # where cos or sin is tiny
    special = [float(text) for text in _SPECIAL.split()]
    parts = (
        np.array(special, np.float32),
        bits,
        *(x.astype(np.float32) for x in (near, angles, quarters)),
    )
    return np.concatenate(parts)


def _units(got: Floats, want: Wide) -> Wide:
    """How far off each number is, in units of the last place of what it should be."""
    with np.errstate(over="ignore", invalid="ignore"):
        nearest = want.astype(np.float32)
        unit = np.maximum(np.spacing(np.abs(nearest)).astype(np.float64), 2.0**-149)
        error = np.abs(got.astype(np.float64) - want) / unit
    same = (got == nearest) | (np.isnan(got) & np.isnan(want))
    return np.where(
        same, np.minimum(np.nan_to_num(error), 0.5), np.where(np.isnan(error), np.inf, error)
    )


@pytest.mark.parametrize("isa", ISAS)
def test_functions(isa: str) -> None:
    library = compile_source(_SOURCE, isa, kernels=KERNELS)
    x = _arguments(1)
    for name, (units, function) in FUNCTIONS.items():
        many, one = (np.full_like(x, np.nan) for _ in range(2))
        run_team(library, f"{name}_of", [x, many, one], sizes=(len(x), 1, 1, 1), threads=2)
        with np.errstate(all="ignore"):
            want = function(x.astype(np.float64))
        for got in (many, one):
            error = _units(got, want)
            worst = int(np.argmax(error))
            allowed = max(units, 0.5)
            assert error[worst] <= allowed, (name, x[worst], got[worst], want[worst], error[worst])
            if name in ("tanh", "erf", "abs"):
                assert np.array_equal(np.signbit(got[:2]), np.signbit(want[:2])), name


@pytest.mark.parametrize("isa", ISAS)
def test_integers(isa: str) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.integers(-50, 50, 500), rng.integers(-9, 9, 500)
    y[y == 0] = 5
    out = np.zeros((500, 3), dtype=np.int64)
    library = compile_source(_SOURCE, isa, kernels=KERNELS)
    run_team(library, "integers", [x, y, out], sizes=(500, 1, 1, 1))
    np.testing.assert_array_equal(out, np.stack([x // y, x % y, x ** (y & 7)], 1))
