from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graphopt.artifact import read_artifact
from graphopt.errors import ArtifactError
from graphopt.function_plan import FunctionPlan, FunctionStep, read_function
from graphopt.ir.dtype import DType
from graphopt.onnx_api import compile_onnx
from tests.frontend.onnx_models import model, write
from tests.runtime.tiny_decoder import write_decoder

STEPS = (FunctionStep("torch", "neg", (0,)), FunctionStep("torch", "exp", (1, 2)))
PLAN = FunctionPlan("f", "cpu", DType.F32, ("y", "z"), STEPS)


def test_json_and_back() -> None:
    assert FunctionPlan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "decoder"},
        {"schema": 99},
        {"name": 3},
        {"dtype": "f99"},
        {"outputs": None},
        {"steps": [["torch", "neg"]]},
        {"steps": [["torch", "neg", [-1]]]},
        {"steps": [["torch", "neg", [True]]]},
        {"steps": [[1, "neg", [0]]]},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError):
        FunctionPlan.from_json({**PLAN.to_json(), **change})
    with pytest.raises(ArtifactError):
        FunctionPlan.from_json([])


def test_decoders_and_functions_are_told_apart(tmp_path: Path) -> None:
    write_decoder(tmp_path / "decoder.gopt")
    with pytest.raises(ArtifactError, match="not a function"):
        read_function(tmp_path / "decoder.gopt")
    compile_onnx(write(tmp_path, model("float[N] x", "y = Neg(x)")), tmp_path / "function.gopt")
    assert read_function(tmp_path / "function.gopt").plan.outputs == ("y",)
    with pytest.raises(ArtifactError, match="is a function") as caught:
        read_artifact(tmp_path / "function.gopt")
    assert caught.value.next == "graphopt.load_function opens it"
