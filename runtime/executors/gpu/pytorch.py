"""Steps of a plan that PyTorch computes on a GPU: on the memory and the stream of all others.

That is a step without a kernel, and one whose kernel leaves its sizes to PyTorch's libraries. Such
a step is not captured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import Dim, evaluate
from graphopt.ir.types import StateType
from graphopt.plan import Operand, Plan, Step
from graphopt.plan_arguments import Kind

from ..torch_nodes import TorchStep, tensor_type
from .device import Device
from .places import Places, Sizes
from .state import DeviceState


class TorchOnDevice:
    """Runs steps of one plan through PyTorch.

    Args:
        device: where.
        plan: what runs.
        graph: what it computes.
        weights: addresses of weights, row after row, by name.
    """

    def __init__(
        self, device: Device, plan: Plan, graph: Graph, weights: Mapping[str, int]
    ) -> None:
        self._device = device
        self._plan = plan
        self._graph = graph
        self._weights = weights
        self._where = "cuda" if device.stream else None
        self._prepared: dict[int, TorchStep] = {}

    def run(
        self, number: int, step: Step, places: Places, state: DeviceState, sizes: Sizes
    ) -> None:
        """Compute the plan's step ``number``; its results lie in its slots afterwards.

        Raises:
            GraphoptError: PyTorch refuses; the step is named.
        """
        one = self._prepared.get(number)
        if one is None:
            one = self._prepared[number] = TorchStep.of(self._graph, step, self._where)
        with torch.inference_mode(), self._stream():
            given = {v: self._operand(v, at, places, state, sizes) for v, at in one.operands}
            taken = {t.untyped_storage().data_ptr() for t in _tensors(given.values())}
            results = [
                # A result may come to lie where what it is a view of did.
                found.clone() if found.untyped_storage().data_ptr() in taken else found
                for found in one.run(given, sizes)
            ]
            for value, slot, found in zip(one.outputs, step.results, results, strict=True):
                type_ = tensor_type(value)
                self._tensor(places.slots[slot], type_.dtype, type_.shape, sizes).copy_(found)

    def _stream(self) -> AbstractContextManager[Any]:
        if not self._device.stream:
            return nullcontext()
        cuda: Any = torch.cuda
        return cuda.stream(cuda.ExternalStream(self._device.stream))  # type: ignore[no-any-return]

    def _operand(
        self, value: Value, operand: Operand, places: Places, state: DeviceState, sizes: Sizes
    ) -> Any:
        if isinstance(value.type, StateType):
            return self._state(state)
        type_ = tensor_type(value)
        address = self._weights[operand[1:]] if isinstance(operand, str) else places.slots[operand]
        return self._tensor(address, type_.dtype, type_.shape, sizes)

    def _state(self, state: DeviceState) -> PagedState:
        """Keys and values of all layers, as PyTorch sees them."""
        kind, blocks, block = self._plan.state, state.num_blocks, self._plan.block_size
        keys, values = [], []
        for number, layer in enumerate(kind.layers):
            shape = (blocks, block, layer.heads)
            place = state.places[Kind.KEYS, number]
            keys.append(self._tensor(place, layer.dtype, (*shape, layer.key_size), {}))
            if kind.is_latent:
                values.append(keys[-1][..., : layer.value_size])
                continue
            place = state.places[Kind.VALUES, number]
            values.append(self._tensor(place, layer.dtype, (*shape, layer.value_size), {}))
        return PagedState(tuple(keys), tuple(values), block, kind.is_latent)

    def _tensor(
        self, address: int, dtype: DType, shape: tuple[Dim, ...], sizes: Sizes
    ) -> torch.Tensor:
        counts = [evaluate(dim, sizes) for dim in shape]
        nbytes = dtype.nbytes
        for count in counts:
            nbytes *= count
        if not nbytes:
            return torch.empty(counts, dtype=torch_dtype(dtype), device=self._where)
        raw = torch.as_tensor(self._device.view(address, nbytes), device=self._where)
        return raw.view(torch_dtype(dtype)).view(counts)


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among operands, those of a state too."""
    found = []
    for value in values:
        found += [*value.keys, *value.values] if isinstance(value, PagedState) else [value]
    return found
