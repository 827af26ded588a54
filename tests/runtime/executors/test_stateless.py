from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphopt.errors import ArtifactError, IRError, UsageError
from graphopt.function_plan import FunctionArtifact, read_function
from graphopt.onnx_api import compile_onnx
from graphopt.runtime.executors.stateless import CompiledFunction
from tests.frontend.onnx_models import model, normal, write


@pytest.fixture
def artifact(tmp_path: Path) -> FunctionArtifact:
    body = "m = MatMul(x, w) y = Add(m, b) z = Cast<to = 7>(x)"
    made = model("float[N, 3] x, float[N, 5] b", body, "y z", w=normal(3, 5))
    compile_onnx(write(tmp_path, made), tmp_path / "function.gopt")
    return read_function(tmp_path / "function.gopt")


def test_arrays_in_and_arrays_out(artifact: FunctionArtifact) -> None:
    function = CompiledFunction(artifact)
    assert {name: str(type_) for name, type_ in function.inputs.items()} == {
        "x": "f32[N, 3]",
        "b": "f32[N, 5]",
    }
    for rows in (1, 4, 0):
        x, b = normal(rows, 3), normal(rows, 5, seed=1)
        found = function(x, b=b)
        assert list(found) == list(function.outputs) == ["y", "z"]
        np.testing.assert_allclose(found["y"], x @ normal(3, 5) + b, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found["z"], x.astype(np.int64))


def test_tensors_are_taken_too(artifact: FunctionArtifact) -> None:
    x, b = torch.ones(2, 3), torch.zeros(2, 5)
    assert CompiledFunction(artifact)(x, b)["y"].shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "named", "error"),
    [
        ((), {}, UsageError),
        ((np.zeros((2, 3), np.float32),), {}, UsageError),
        ((np.zeros((2, 3), np.float32),), {"x": 1, "b": 2}, UsageError),
        ((1, 2, 3), {}, UsageError),
        ((np.zeros((2, 3)), np.zeros((2, 5), np.float32)), {}, UsageError),
        (("text", np.zeros((2, 5), np.float32)), {}, UsageError),
        ((np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32)), {}, IRError),
        ((np.zeros((2, 3), np.float32), np.zeros((3, 5), np.float32)), {}, IRError),
        ((np.zeros(3, np.float32), np.zeros((3, 5), np.float32)), {}, IRError),
    ],
)
def test_calls_that_do_not_fit(
    artifact: FunctionArtifact, arguments: tuple, named: dict, error: type[Exception]
) -> None:
    with pytest.raises(error):
        CompiledFunction(artifact)(*arguments, **named)


def test_steps_share_a_change_of_shape(tmp_path: Path) -> None:
    """Each reads through it, and what lies between them in the graph may run later."""
    body = "r = Reshape(x, s) a = ReduceMax(r, one) c = Exp(x) b = MatMul(r, w) d = Sub(b, a)"
    made = model(
        "float[N, 6] x",
        body + " e = Reshape(c, s) y = Add(d, e)",
        w=normal(3, 3),
        s=np.array([-1, 3]),
        one=np.array([1]),
    )
    compile_onnx(write(tmp_path, made), tmp_path / "shared.gopt")
    artifact = read_function(tmp_path / "shared.gopt")
    places = [place for step in artifact.plan.steps for place in step.nodes]
    assert len(places) > len(set(places))
    x = normal(4, 6)
    rows = x.reshape(-1, 3)
    expected = rows @ normal(3, 3) - rows.max(1, keepdims=True) + np.exp(rows)
    np.testing.assert_allclose(CompiledFunction(artifact)(x=x)["y"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda steps: steps[1:],
        lambda steps: (dataclasses.replace(steps[0], nodes=steps[0].nodes[::-1]), *steps[1:]),
        lambda steps: (*steps, steps[-1]),
        lambda steps: (dataclasses.replace(steps[0], nodes=(99,)), *steps[1:]),
    ],
)
def test_steps_that_do_not_fit_the_graph(artifact: FunctionArtifact, change: Any) -> None:
    plan = dataclasses.replace(artifact.plan, steps=change(artifact.plan.steps))
    with pytest.raises(ArtifactError, match="does not fit its graph"):
        CompiledFunction(dataclasses.replace(artifact, plan=plan))


def test_outputs_that_do_not_fit_the_graph(artifact: FunctionArtifact) -> None:
    plan = dataclasses.replace(artifact.plan, outputs=("y",))
    with pytest.raises(ArtifactError, match="does not fit its graph"):
        CompiledFunction(dataclasses.replace(artifact, plan=plan))
