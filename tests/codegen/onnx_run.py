"""Runs a model that is in memory: through the standard's own reference, or onnxruntime."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator

from graphopt.codegen.onnx_export import OnnxModel, declared
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.reference import PagedState
from graphopt.ir.types import StateType, TensorType

_OWN: dict[torch.dtype, Any] = {
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
}


def as_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor as ONNX's tools take it."""
    own = _OWN.get(tensor.dtype)
    if own is None:
        return tensor.numpy()
    width = {1: torch.uint8, 2: torch.int16}[tensor.element_size()]
    return tensor.contiguous().view(width).numpy().view(own)


def as_torch(array: np.ndarray[Any, Any], dtype: DType) -> torch.Tensor:
    """An array of ONNX's tools as a tensor."""
    wanted = getattr(torch, dtype.torch_name)
    array = np.asarray(array)
    own = _OWN.get(wanted)
    if own is None:
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape).to(wanted)
    raw = {1: np.uint8, 2: np.int16}[array.dtype.itemsize]
    return torch.from_numpy(np.ascontiguousarray(array).view(raw)).reshape(array.shape).view(wanted)


def with_weights(model: OnnxModel, weights: dict[str, torch.Tensor]) -> onnx.ModelProto:
    """The model with its weights inside, checked as strictly as ONNX can."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for name, value in model.weights.items():
        tensor = declared(name, value)
        tensor.raw_data = as_numpy(weights[value.name]).tobytes()
        proto.graph.initializer.append(tensor)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run_reference(
    proto: onnx.ModelProto, graph: Graph, inputs: dict[str, torch.Tensor]
) -> list[torch.Tensor]:
    """The outputs by the standard's own reference implementation."""
    found = ReferenceEvaluator(proto).run(None, {k: as_numpy(v) for k, v in inputs.items()})
    types = [value.type for value in graph.outputs]
    return [
        as_torch(array, type_.dtype)
        for array, type_ in zip(found, types, strict=True)
        if isinstance(type_, TensorType)
    ]


def oracle_logits(graph: Graph, weights: dict[str, torch.Tensor], tokens: list[int]) -> Any:
    """Logits of one sequence from its beginning, by the interpreter."""
    state = next(value.type for value in graph.inputs if isinstance(value.type, StateType))
    count, size = len(tokens), 4
    blocks = -(-count // size)
    (logits,) = Interpreter(graph, weights).run(
        {
            "token_ids": torch.tensor(tokens),
            "positions": torch.arange(count),
            "rows": torch.arange(count),
            "slots": torch.arange(count),
            "starts": torch.tensor([0, count], dtype=torch.int32),
            "lengths": torch.tensor([count], dtype=torch.int32),
            "tables": torch.arange(blocks, dtype=torch.int32)[None],
            "kv": PagedState.allocate(state, blocks, size),
        }
    )
    return logits


class Session:
    """A decoder in onnxruntime, with the past of its sequences.

    Args:
        model: a file, or the model itself.
    """

    def __init__(self, model: str | onnx.ModelProto) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model if isinstance(model, str) else model.SerializeToString(),
            settings,
            providers=["CPUExecutionProvider"],
        )
        self._past: dict[str, Any] = {}
        self._mask: Any = None

    def step(self, tokens: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None = None) -> Any:
        """Logits ``[N, L, V]`` of the next tokens ``[N, L]``; the mask is 1 where there is one."""
        if self._mask is None:
            self._past = {
                one.name: np.zeros((len(tokens), one.shape[1], 0, one.shape[3]), np.float32)
                for one in self._session.get_inputs()
                if one.name.startswith("past_key_values.")
            }
            self._mask = np.zeros((len(tokens), 0), np.int64)
        new = np.ones_like(tokens) if mask is None else mask
        self._mask = np.concatenate([self._mask, new], axis=1)
        inputs = {"input_ids": tokens, "attention_mask": self._mask, **self._past}
        names = [one.name for one in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(None, inputs), strict=True))
        self._past = {
            name.replace("present", "past_key_values"): array
            for name, array in found.items()
            if name != "logits"
        }
        return found["logits"]

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """The tokens that follow a prompt, each the most likely one."""
        logits, chosen = self.step(np.array([prompt])), list[int]()
        for _ in range(count):
            chosen.append(int(logits[0, -1].argmax()))
            logits = self.step(np.array([chosen[-1:]]))
        return chosen


def compare(
    model: onnx.ModelProto, graph: Graph, weights: dict[str, torch.Tensor], vocab_size: int
) -> float:
    """The greatest relative error of onnxruntime beside the interpreter.

    Three sequences of unequal length are read in one step, then go on by two tokens and by one.
    """
    rng = np.random.default_rng(0)
    lengths, width = (7, 1, 4), 7
    tokens = rng.integers(0, vocab_size, (3, width))
    mask = (np.arange(width) >= width - np.array(lengths)[:, None]).astype(np.int64)
    session, worst = Session(model), 0.0
    full = [list(row[width - n :]) for row, n in zip(tokens.tolist(), lengths, strict=True)]
    for new in (0, 2, 1, 1):
        if new:
            tokens = rng.integers(0, vocab_size, (3, new))
            full = [before + row for before, row in zip(full, tokens.tolist(), strict=True)]
        logits = session.step(tokens, mask if not new else None)
        for row, sequence in enumerate(full):
            wanted = oracle_logits(graph, weights, sequence)[-(new or lengths[row]) :]
            got = torch.from_numpy(logits[row, -len(wanted) :])
            worst = max(worst, float((got - wanted).norm() / wanted.norm()))
    return worst
