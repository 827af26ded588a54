"""A piece of a plan that PyTorch runs, between compiled ones, on the slots that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from graphopt.artifact import Artifact
from graphopt.errors import ArtifactError
from graphopt.ir.graph import Graph, Value
from graphopt.ir.reference import torch_dtype
from graphopt.plan import Operand, Piece, Step

from ..executor import StepInputs
from .slots import Sizes, Slots
from .torch import weight_tensor
from .torch_nodes import TorchStep, tensor_type

Observe = Callable[[Step, Sequence[npt.NDArray[Any]]], None]


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
        self, one: TorchStep, slots: Slots, inputs: StepInputs, sizes: Sizes
    ) -> list[npt.NDArray[Any]]:
        given = {v: self._read(v, operand, slots, inputs, sizes) for v, operand in one.operands}
        found = one.run(given, sizes)
        made = []
        for value, result, slot in zip(one.outputs, found, one.step.results, strict=True):
            place = slots.array(slot, tensor_type(value), sizes)
            tensor = result.contiguous()
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
        type_ = tensor_type(value)
        # A copy, because a result may come to lie where an operand was.
        array = slots.array(operand, type_, sizes).copy()
        integers = array.view(np.int16) if array.dtype == np.uint16 else array
        return torch.from_numpy(integers).view(torch_dtype(type_.dtype))

    def _prepare(self, artifact: Artifact, graph: Graph, step: Step) -> TorchStep:
        found = TorchStep.of(graph, step)
        if found.has_state:
            raise ArtifactError(
                "PyTorch cannot read the state that kernels keep",
                where=step.scope or step.name,
                next="compile the checkpoint again with this version",
            )
        for operand in step.operands:
            if isinstance(operand, str):
                self._weights[operand[1:]] = weight_tensor(artifact, operand[1:])
        return found
