"""A piece of a plan that PyTorch runs, between compiled ones, on the slots that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from graphopt.artifact import Artifact
from graphopt.errors import ArtifactError, GraphoptError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.reference import prepare, torch_dtype
from graphopt.ir.types import StateType, TensorType
from graphopt.plan import Operand, Piece, Step
from graphopt.region import make_region

from ..executor import StepInputs
from .slots import Sizes, Slots
from .torch import weight_tensor

Observe = Callable[[Step, Sequence[npt.NDArray[Any]]], None]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A step: where its operands are, its nodes, and what goes into its slots."""

    step: Step
    operands: tuple[tuple[Value, Operand], ...]
    nodes: tuple[tuple[Any, Any], ...]
    outputs: tuple[Value, ...]


class TorchSteps:
    """Runs a piece of steps that have no kernel.

    Args:
        artifact: has the weights; packed ones are unpacked into memory of their own.
        graph: what the plan computes.
        piece: steps without state, whose memory only kernels can read.

    Raises:
        ArtifactError: a step has state.
    """

    def __init__(self, artifact: Artifact, graph: Graph, piece: Piece) -> None:
        self._inputs = {slot: name for name, slot in artifact.plan.inputs.items()}
        self._weights: dict[str, torch.Tensor] = {}
        self._steps = tuple(self._prepare(artifact, graph, step) for step in piece.steps)

    def run(
        self, slots: Slots, inputs: StepInputs, sizes: Sizes, observe: Observe | None = None
    ) -> None:
        """Compute the piece.

        Raises:
            GraphoptError: a step failed; it is named.
        """
        with torch.inference_mode():
            for one in self._steps:
                made = self._run(one, slots, inputs, sizes)
                if observe is not None:
                    observe(one.step, made)

    def _run(
        self, one: _Prepared, slots: Slots, inputs: StepInputs, sizes: Sizes
    ) -> list[npt.NDArray[Any]]:
        values = {v: self._read(v, operand, slots, inputs, sizes) for v, operand in one.operands}
        try:
            for node, compute in one.nodes:
                results = compute([values[value] for value in node.inputs], dict(sizes))
                values.update(zip(node.outputs, results, strict=True))
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise GraphoptError(
                f"step {one.step.kernel} failed",
                where=one.step.scope,
                got=f"{type(error).__name__}: {error}",
                next="run `graphopt verify` on the artifact",
            ) from error
        made = []
        for value, slot in zip(one.outputs, one.step.results, strict=True):
            place = slots.array(slot, _tensor_type(value), sizes)
            tensor = values[value].contiguous()
            integers = torch.int16 if tensor.dtype is torch.bfloat16 else tensor.dtype
            np.copyto(place, tensor.view(integers).numpy().view(place.dtype))
            made.append(place.copy())
        return made

    def _read(
        self, value: Value, operand: Operand, slots: Slots, inputs: StepInputs, sizes: Sizes
    ) -> torch.Tensor:
        if isinstance(operand, str):
            return self._weights[operand[1:]]
        if operand in self._inputs:
            return torch.from_numpy(getattr(inputs, self._inputs[operand]))
        type_ = _tensor_type(value)
        # A copy, because a result may come to lie where an operand was.
        array = slots.array(operand, type_, sizes).copy()
        integers = array.view(np.int16) if array.dtype == np.uint16 else array
        return torch.from_numpy(integers).view(torch_dtype(type_.dtype))

    def _prepare(self, artifact: Artifact, graph: Graph, step: Step) -> _Prepared:
        region = make_region(graph, step.nodes)
        if any(isinstance(value.type, StateType) for value in region.inputs):
            raise ArtifactError(
                "PyTorch cannot read the state that kernels keep",
                where=step.scope or step.name,
                next="compile the checkpoint again with this version",
            )
        for operand in step.operands:
            if isinstance(operand, str):
                self._weights[operand[1:]] = weight_tensor(artifact, operand[1:])
        nodes = tuple((graph.nodes[place], prepare(graph.nodes[place])) for place in step.nodes)
        operands = tuple(zip(region.inputs, step.operands, strict=True))
        return _Prepared(step, operands, nodes, region.outputs)


def _tensor_type(value: Value) -> TensorType:
    if not isinstance(value.type, TensorType):
        raise ArtifactError("a slot holds no tensor", where=str(value), got=value.type)
    return value.type
