"""Small ONNX models written as text, and what the standard's own reference makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from graphopt.frontend.onnx_causal import as_tensor
from graphopt.frontend.onnx_file import OnnxFile, open_onnx
from graphopt.frontend.onnx_import import ImportedOnnx, import_onnx
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.verify import verify

Arrays = dict[str, np.ndarray[Any, Any]]


def model(
    inputs: str, body: str, outputs: str = "y", *, opset: int = 18, **weights: Any
) -> onnx.ModelProto:
    """A model: typed inputs, statements, names of outputs, and weights as arrays."""
    ends = ", ".join(f"float {name}" for name in outputs.split())
    text = f'<ir_version: 9, opset_import: ["" : {opset}]> g ({inputs}) => ({ends}) {{ {body} }}'
    made = parser.parse_model(text)
    for name, array in weights.items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return made


def write(folder: Path, made: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def opened(folder: Path, made: onnx.ModelProto) -> OnnxFile:
    return open_onnx(write(folder, made))


def imported(folder: Path, made: onnx.ModelProto) -> ImportedOnnx:
    return import_onnx(opened(folder, made))


def run(function: ImportedOnnx, inputs: Arrays) -> list[np.ndarray[Any, Any]]:
    """What the interpreter makes of an imported model."""
    verify(function.graph)
    weights = {
        value.name: as_tensor(function.constants[value.name]) for value in function.graph.weights
    }
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    return [found.numpy() for found in Interpreter(function.graph, weights).run(tensors)]


def agree(folder: Path, made: onnx.ModelProto, inputs: Arrays) -> ImportedOnnx:
    """Demands that an imported model computes what the standard says; gives it."""
    function = imported(folder, made)
    wanted = ReferenceEvaluator(made).run(None, inputs)
    for got, expected in zip(run(function, inputs), wanted, strict=True):
        expected = np.asarray(expected)
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)
    return function


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
