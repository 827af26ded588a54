"""Plans of few bits on the device: each of their steps beside the reference that rounds alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt import api
from graphopt.runtime.executors.verification import verify_plan
from tests.checkpoints import save_tiny
from tests.models.harness import prompts

from .test_families import target

pytestmark = pytest.mark.gpu

OPTIONS: list[dict[str, str]] = [
    {"quantize": "int8"},
    {"quantize": "int4"},
    {"quantize": "w8a8"},
    {"quantize": "fp8"},
    {"quantize": "fp8-tensor", "kv_dtype": "fp8-e5m2"},
    {"kv_dtype": "fp8"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options.values()))
def test_every_step_agrees(options: dict[str, str], tmp_path: Path) -> None:
    checkpoint = save_tiny(
        tmp_path / "model", hidden_size=512, intermediate_size=1408, num_hidden_layers=2
    )
    artifact = api.compile_checkpoint(
        checkpoint, tmp_path / "a.gopt", target=target(), dtype="bfloat16", **options
    )
    (tokens,) = prompts(artifact.plan.limits.vocab_size, (96,), seed=7)
    report = verify_plan(artifact, tokens)
    assert report.agrees, report
