"""The bytes of a compiled graph's weights: from the checkpoint, or from the model's own constants.

before:  names of a graph's weights, a binding of them to a checkpoint, and tensors in no checkpoint
after:   for each name one array with the element type the graph declares; bf16 and f8 as integers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from graphopt.errors import CheckpointError
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType

if TYPE_CHECKING:
    import torch

    from .conversion import Binding

Loader = Callable[[str], npt.NDArray[np.generic]]
# Integers of the same size for types that numpy lacks.
_STAND_IN = {DType.BF16: "int16", DType.F8E4M3: "uint8", DType.F8E5M2: "uint8"}


def weight_loader(graph: Graph, binding: Binding, constants: Mapping[str, torch.Tensor]) -> Loader:
    """A function that reads one weight of ``graph`` at a time.

    Raises:
        CheckpointError: (when called) the tensor has another shape than the graph declares.
    """
    types = {value.name: value.type for value in graph.weights}

    def load(name: str) -> npt.NDArray[np.generic]:
        import torch

        wanted = types[name]
        if not isinstance(wanted, TensorType):
            raise CheckpointError("a weight is not a tensor", where=name, got=wanted)
        dtype: torch.dtype = getattr(torch, wanted.dtype.torch_name)
        found = constants.get(name)
        tensor = binding.load(name, dtype) if found is None else found.to(dtype)
        if tuple(tensor.shape) != wanted.shape:
            raise CheckpointError(
                "a weight has another shape than the graph expects",
                where=name,
                got=list(tensor.shape),
                expected=wanted,
            )
        return as_array(tensor.detach(), wanted.dtype)

    return load


def as_array(tensor: torch.Tensor, dtype: DType) -> npt.NDArray[np.generic]:
    """A tensor's elements without copying them where they are contiguous."""
    import torch

    stand_in = _STAND_IN.get(dtype)
    tensor = tensor.contiguous()
    if stand_in is not None:
        tensor = tensor.view(getattr(torch, stand_in))
    found: npt.NDArray[np.generic] = tensor.numpy()
    return found
