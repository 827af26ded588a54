"""The families that matter most: a mixed step and sixteen greedy tokens, as in transformers."""

from __future__ import annotations

import pytest

from tests.models.cases import CASES, FAST
from tests.models.harness import case, generated, greedy, mixed_step_error, prompts

NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_step_agrees_before_and_after_the_passes(name: str) -> None:
    found = case(name)
    for graph in (found.decoder.graph, found.compiled):
        assert mixed_step_error(graph, found.weights, found.reference) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens_are_identical(name: str) -> None:
    found = case(name)
    starts = prompts(160, (13, 5, 22), seed=1)
    ours = greedy(found.compiled, found.weights, starts, 16)
    assert ours == [generated(found.reference, tokens, 16) for tokens in starts]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_to_pytorch(name: str) -> None:
    ops = {node.op for node in case(name).compiled.nodes}
    assert not {op for op in ops if op.startswith("aten.")}
