"""The bytes of a compiled graph's weights: from the checkpoint, or from the model's own constants.

before:  names of a graph's weights, a binding of them to a checkpoint, tensors in no checkpoint,
         and how folded weights are made from others
after:   for each name one array with the element type the graph declares; bf16 and f8 as integers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from graphopt.errors import CheckpointError
from graphopt.ir.builder import without_dead_nodes
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    import torch

    from .conversion import Binding

Loader = Callable[[str], npt.NDArray[np.generic]]
# Integers of the same size for types that numpy lacks.
_STAND_IN = {DType.BF16: "int16", DType.F8E4M3: "uint8", DType.F8E5M2: "uint8"}


def weight_loader(
    graph: Graph,
    binding: Binding | None,
    constants: Mapping[str, torch.Tensor],
    folded: Graph | None = None,
) -> Loader:
    """A function that reads one weight of ``graph`` at a time.

    Args:
        graph: whose weights.
        binding: finds them in the checkpoint; None where ``constants`` has them all.
        constants: the model's own values of tensors that the checkpoint may lack, by name.
        folded: a graph without inputs whose outputs are the weights that are in neither.

    Raises:
        CheckpointError: (when called) the tensor has another shape than the graph declares.
    """
    makers: dict[str, Value] = {}
    # Made together with what was asked for, such as the scales of a rounded weight: asked for next.
    waiting: dict[str, torch.Tensor] = {}
    types = {value.name: value.type for value in graph.weights}
    if folded is not None:
        makers.update((value.name, value) for value in folded.outputs)
        types.update((value.name, value.type) for value in folded.weights)

    def stored(name: str) -> torch.Tensor:
        import torch

        wanted = types[name]
        if not isinstance(wanted, TensorType):
            raise CheckpointError("a weight is not a tensor", where=name, got=wanted)
        dtype: torch.dtype = getattr(torch, wanted.dtype.torch_name)
        bound = binding is not None and name in binding.names
        found = None if bound else constants.get(name)
        if found is not None:
            tensor = found.to(dtype)
        elif binding is not None:
            tensor = binding.load(name, dtype)
        else:
            raise CheckpointError("a weight is missing", where=name, expected=wanted)
        if tuple(tensor.shape) != wanted.shape:
            raise CheckpointError(
                "a weight has another shape than the graph expects",
                where=name,
                got=list(tensor.shape),
                expected=wanted,
            )
        return tensor.detach()

    def load(name: str) -> npt.NDArray[np.generic]:
        wanted = types[name]
        if not isinstance(wanted, TensorType):
            raise CheckpointError("a weight is not a tensor", where=name, got=wanted)
        if folded is None or name not in makers:
            return as_array(stored(name), wanted.dtype)
        if name not in waiting:
            waiting.update(_computed(folded, makers[name], stored))
        return as_array(waiting.pop(name), wanted.dtype)

    return load


def _computed(
    constants: Graph, wanted: Value, stored: Callable[[str], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """An output of ``constants``, and what else the same node makes, by name.

    Only the weights are loaded that it is made from.
    """
    import torch

    from graphopt.ir.interpreter import Interpreter

    made = constants.producers[wanted].outputs if wanted in constants.producers else (wanted,)
    outputs = tuple(value for value in constants.outputs if value in made)
    alone = without_dead_nodes(replace(constants, outputs=outputs))
    with torch.inference_mode():
        weights = {value.name: stored(value.name) for value in alone.weights}
        found = Interpreter(alone, weights).run({})
    return {value.name: tensor for value, tensor in zip(outputs, found, strict=True)}


def as_array(tensor: torch.Tensor, dtype: DType) -> npt.NDArray[np.generic]:
    """A tensor's elements without copying them where they are contiguous."""
    import torch

    stand_in = _STAND_IN.get(dtype)
    tensor = tensor.contiguous()
    if stand_in is not None:
        tensor = tensor.view(getattr(torch, stand_in))
    found: npt.NDArray[np.generic] = tensor.numpy()
    return found
