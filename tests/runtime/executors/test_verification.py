"""Verification agrees with a right plan, and finds a wrong step, a wrong pass and wrong weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.artifact import Artifact
from graphopt.embedding import Embedding
from graphopt.errors import ArtifactError, UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.tolerance import FLOORS
from graphopt.plan import Step
from graphopt.runtime import gpu_setup
from graphopt.runtime.executors import torch as executor_module
from graphopt.runtime.executors.verification import (
    Row,
    Scenario,
    relative_error,
    token_error,
    verify_plan,
)
from tests.checkpoints import save_tiny
from tests.runtime.executors.gpu.interpreted_artifact import compile_interpreted, tiny
from tests.runtime.executors.gpu.interpreted_device import InterpretedDevice
from tests.runtime.tiny_decoder import HIDDEN, VOCAB, Oracle, write_decoder

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]


@pytest.fixture(scope="module", params=[DType.F32, DType.BF16])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_decoder(tmp_path_factory.mktemp("tiny") / "a.gopt", dtype=request.param)


def test_a_right_plan_agrees(artifact: Artifact) -> None:
    report = verify_plan(artifact, TOKENS)
    assert report.agrees
    made = [step.name for step in artifact.plan.steps() if step.results]
    assert [row.name for row in report.steps] == made
    assert report.reference is None
    assert report.to_json()["agrees"] is True
    assert all(row.tolerance >= FLOORS[artifact.plan.dtype] for row in report.steps)


@pytest.mark.parametrize("whole", [True, False])
def test_the_rows_of_a_plan_that_embeds_are_compared(tmp_path: Path, whole: bool) -> None:
    embedding = Embedding(HIDDEN, "mean", True, whole)
    made = write_decoder(tmp_path / "a.gopt", embedding=embedding)
    oracle = Oracle(embedding=embedding)

    def reference(ids: Sequence[int], factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        rows = oracle.logits(list(ids))
        return factor * rows, factor * rows

    report = verify_plan(made, TOKENS, reference=reference)
    assert report.agrees
    assert (report.logits.name, report.reference.name) == ("rows", "transformers")
    assert not verify_plan(made, TOKENS, reference=partial(reference, factor=1.1)).agrees
    scenario = Scenario.make(TOKENS, made)
    assert len(scenario.steps) == 2
    assert [step.reaches is not None for step in scenario.steps] == [whole, whole]
    if whole:
        assert [len(step.lengths) for step in scenario.steps] == [2, 1]
        assert scenario.steps[0].reaches.tolist() == [10] * 10 + [5] * 5


@pytest.mark.interpreted
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.full)])
def test_a_plan_for_a_gpu_agrees(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = InterpretedDevice()
    monkeypatch.setattr(gpu_setup, "this_gpu", lambda plan: device)
    compiled = tiny(dtype=dtype)
    report = verify_plan(compiled, TOKENS)
    assert report.agrees, report
    assert [row.name for row in report.steps] == [
        step.name for step in compiled.plan.steps() if step.results
    ]
    assert device.blocks == {}


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "options",
    [
        {"quantize": "fp8", "kv_dtype": "fp8"},
        *(
            pytest.param(one, marks=pytest.mark.full)
            for one in (
                {"kv_dtype": "fp8-e5m2"},
                {"quantize": "fp8-tensor"},
                {"quantize": "w8a8"},
                {"quantize": "int4"},
            )
        ),
    ],
    ids=lambda options: ", ".join(options.values()),
)
def test_a_plan_of_few_bits_for_a_gpu_agrees(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_tiny(tmp_path / "tiny", num_hidden_layers=1)
    artifact = compile_interpreted(checkpoint, tmp_path / "a.gopt", dtype="bfloat16", **options)
    assert artifact.plan.backends() == {"triton"}
    words = {"int4": "quantized_linear", "w8a8": "quantized_linear", "fp8-e5m2": "f8e5m2"}
    for one in options.values():
        assert words.get(one, "f8e4m3") in artifact.graph_text()
    monkeypatch.setattr(gpu_setup, "this_gpu", lambda plan: InterpretedDevice())
    report = verify_plan(artifact, TOKENS)
    assert report.agrees, report


def test_a_step_that_computes_wrongly_is_found(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel of the second layer's norm is a little off, as a wrong epsilon would make it."""
    right = executor_module.prepare

    def prepare(node: Node) -> Callable[..., tuple[Any, ...]]:
        compute = right(node)
        if not any(value.name == "1.norm" for value in node.inputs):
            return compute
        return lambda *arguments: tuple(result * 1.05 for result in compute(*arguments))

    monkeypatch.setattr(executor_module, "prepare", prepare)
    report = verify_plan(artifact, TOKENS)
    assert not report.agrees
    first = next(number for number, row in enumerate(report.steps) if not row.agrees)
    assert all(row.agrees for row in report.steps[:first])
    assert first >= 6, "the first layer's steps are right"


def test_a_plan_of_another_graph_is_refused_before_it_runs(artifact: Artifact) -> None:
    """The second layer's norm reads the first one's weight."""

    def exchanged(step: Step) -> Step:
        operands = tuple("@0.norm" if one == "@1.norm" else one for one in step.operands)
        return dataclasses.replace(step, operands=operands)

    pieces = tuple(
        dataclasses.replace(piece, steps=tuple(map(exchanged, piece.steps)))
        for piece in artifact.plan.pieces
    )
    plan = dataclasses.replace(artifact.plan, pieces=pieces)
    with pytest.raises(ArtifactError, match="does not read what its nodes need"):
        verify_plan(Artifact(artifact.path, artifact.manifest, plan), TOKENS)


def test_a_reference_that_differs_is_found(artifact: Artifact) -> None:
    def other(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        logits = np.random.default_rng(0).normal(size=(len(ids), VOCAB)).astype(np.float32)
        return logits, logits

    report = verify_plan(artifact, TOKENS, reference=other)
    assert report.logits.agrees
    assert report.reference is not None
    assert not report.reference.agrees
    assert not report.agrees


def test_a_reference_of_another_size_is_refused(artifact: Artifact) -> None:
    def larger(ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        logits = np.zeros((len(ids), VOCAB + 1), np.float32)
        return logits, logits

    with pytest.raises(UsageError, match="logits of another size"):
        verify_plan(artifact, TOKENS, reference=larger)


def test_the_scenario_computes_every_token_once(artifact: Artifact) -> None:
    scenario = Scenario.make(TOKENS, artifact)
    assert sum(map(len, scenario.sequences)) == len(TOKENS)
    assert sorted(scenario.owners) == [
        (number, place)
        for number, ids in enumerate(scenario.sequences)
        for place in range(len(ids))
    ]
    mixed = scenario.steps[-1]
    counts = np.diff(mixed.starts)
    assert counts.tolist() == [len(scenario.sequences[2]), 1, 1]
    assert len(set(mixed.slots.tolist())) == len(mixed.slots)


@pytest.mark.parametrize("tokens", [[1, 2, 3], [1, 2, 3, VOCAB], [1, 2, 3, -1]])
def test_tokens_that_cannot_run_are_refused(artifact: Artifact, tokens: list[int]) -> None:
    with pytest.raises(UsageError):
        verify_plan(artifact, tokens)


def test_four_tokens_are_enough(artifact: Artifact) -> None:
    assert verify_plan(artifact, [1, 2, 3, 4]).agrees


def test_relative_error() -> None:
    assert relative_error([1.0, 2.0], [1.0, 2.0]) == 0.0
    assert relative_error([3.0, 4.0], [0.0, 0.0]) == math.inf
    assert relative_error([0.0], [0.0]) == 0.0
    assert relative_error([0.0, 1.0], [0.0, 2.0]) == 0.5
    assert not Row("x", "", relative_error([math.nan], [1.0]), 0.0, 1.0).agrees


def test_equal_infinities_are_no_difference() -> None:
    rows = np.array([[1.0, -np.inf], [2.0, np.inf]])
    assert relative_error(rows, rows) == 0.0
    assert not relative_error(np.array([1.0, np.inf]), np.array([1.0, -np.inf])) <= 1e30


def test_a_quarter_of_the_tokens_may_go_elsewhere() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(8, 5))
    found = wanted * (1 + 1e-6)
    found[:2] = rng.normal(size=(2, 5))
    assert token_error(found, wanted) == pytest.approx(1e-6, rel=1e-3)
    found[2:4] = np.nan
    assert token_error(found, wanted) > 0.5
    assert token_error(np.full_like(wanted, np.nan), wanted) == float("inf")
