"""Tiles of every height and width give the sums of the definition, from zero or onto others."""

from __future__ import annotations

import ctypes
from functools import cache

import ml_dtypes
import numpy as np
import pytest

from graphopt.packing import Layout, pack

from .native import ISAS, compile_source, run_team

TYPES = {"float": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16}
# T rows of S columns, in rows of x that are S + 2 apart, with R panels; sums are R panels and one
# more apart. `tile_of` says which of how many tiles asks for weights, which changes no number.
KERNEL = """
static void tiles_{w}(const Step& step, Team&, void* const* a) {{
  const int64_t k = padded<{w}>(step.S), stride = k + 2;
  const Panels<{w}> w{{static_cast<const {w}*>(a[1]), step.R * PANEL, step.S}};
  const auto* given = static_cast<const float*>(a[0]);
  const int32_t* tile_of = static_cast<const int32_t*>(a[3]);
  auto* x = static_cast<Input<{w}>*>(a[4]);
  for (int64_t r = 0; r < step.T; ++r)
    for (int64_t i = 0; i < k; ++i)
      x[r * stride + i] = from_float<Input<{w}>>(i < step.S ? given[r * step.S + i] : 0);
  const {w}* panels[8];
  for (int p = 0; p < step.R; ++p) panels[p] = w.panel(p);
  const Ahead ahead{{k * PANEL, tile_of[0], tile_of[1]}};
  tiles<{w}>(step.T, x, stride, panels, int(step.R), k, ahead, static_cast<float*>(a[2]),
             (step.R + 1) * PANEL, step.P);
}}
"""
HEIGHT = """
extern "C" __attribute__((visibility("default"))) int32_t tile_rows() { return TILE_ROWS; }
"""


@cache
def library(isa: str) -> ctypes.CDLL:
    text = '#include "gemm_tile.h"\n#include "parallel.h"\nusing namespace gopt;\n' + HEIGHT
    text += "".join(KERNEL.format(w=kind) for kind in TYPES)
    return compile_source(
        text, isa, kernels=tuple(f"tiles_{kind}" for kind in TYPES), flags=("-O1",)
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", tuple(TYPES))
@pytest.mark.parametrize("onto", [False, True])
def test_every_tile_agrees_with_float64(isa: str, kind: str, onto: bool) -> None:
    code = library(isa)
    generator = np.random.default_rng(5)
    for rows in range(1, code.tile_rows() + 1):
        for panels in range(1, 6):
            for k in (1, 33, 600):
                x = generator.standard_normal((rows, k)).astype(ml_dtypes.bfloat16)
                weight = generator.standard_normal((16 * panels, k)).astype(TYPES[kind])
                bits = weight.view(np.uint16) if kind == "bf16" else weight
                before = generator.standard_normal((rows, panels + 1, 16)).astype(np.float32)
                if not onto:
                    before[:, :panels] = np.nan
                sums = before.copy()
                tile_of = np.array(((0, 1), (0, 2), (2, 3))[rows % 3], np.int32)
                room = np.full(rows * (k + 3), np.nan, np.float32)
                run_team(
                    code,
                    f"tiles_{kind}",
                    (
                        x.astype(np.float32),
                        pack(bits, Layout.whole(16 * panels, k)),
                        sums,
                        tile_of,
                        room,
                    ),
                    sizes=(rows, panels, k, int(onto)),
                )
                exact = (x.astype(np.float64) @ weight.astype(np.float64).T).reshape(rows, -1, 16)
                if onto:
                    exact += before[:, :panels]
                np.testing.assert_allclose(sums[:, :panels], exact, rtol=1e-5, atol=1e-4)
                np.testing.assert_array_equal(sums[:, panels], before[:, panels])
