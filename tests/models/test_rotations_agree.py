"""Families after rotations and routers are raised: the numbers of transformers, in float32."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphopt.frontend.hf import trace_decoder
from graphopt.frontend.quiet import quiet
from graphopt.frontend.twin import TOLERANCE, compare
from graphopt.ir.dtype import DType
from graphopt.passes.manager import run_passes
from tests.models.cases import CASES, FAST
from tests.models.families import small_config
from tests.models.harness import case, mixed_step_error
from tests.passes.rotated import ROWS, passes


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_mixed_step_agrees(name: str) -> None:
    found = case(name)
    graph, _ = run_passes(found.decoder.graph, passes())
    assert mixed_step_error(graph, found.weights, found.reference) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("family", ROWS)
def test_the_twin_agrees(family: str) -> None:
    config = small_config(family)
    with quiet():
        decoder = trace_decoder(config, DType.F32)
    graph, _ = run_passes(decoder.graph, passes())
    assert compare(config, replace(decoder, graph=graph)) < TOLERANCE
