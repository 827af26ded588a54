"""Runs any graph through the reference implementations: the oracle of every pass and kernel.

(logits,) = Interpreter(graph, weights).run({"token_ids": ids, ..., "kv": state})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from graphopt.errors import GraphoptError, IRError

from .bind import bind_sizes
from .graph import Graph, Node, Value
from .printer import print_node
from .reference import PagedState, Step, prepare, torch_dtype
from .reference_common import Device
from .types import StateType, TensorType

Observe = Callable[[Node, tuple[Any, ...]], None]


class Interpreter:
    """A graph with its weights, ready to run.

    Args:
        graph: a well-formed graph.
        weights: the tensors by name. One in another floating-point type than the graph declares is
            converted while it is needed, so a widened graph takes the checkpoint's own tensors.
        device: where operators without inputs put their result.

    Raises:
        IRError: a weight is missing or has another shape.
    """

    def __init__(
        self, graph: Graph, weights: Mapping[str, Tensor], *, device: Device = None
    ) -> None:
        self.graph = graph
        self._weights = {value: _weight(value, weights) for value in graph.weights}
        self._steps: list[tuple[Node, Step]] = [
            (node, prepare(node, device=device)) for node in graph.nodes
        ]
        self._dead = _last_uses(graph)

    def run(self, inputs: Mapping[str, Any], *, observe: Observe | None = None) -> tuple[Any, ...]:
        """The graph's outputs.

        Args:
            inputs: for each input by name a tensor (or array), or a ``PagedState``, which is
                updated in place: pass ``state.clone()`` to keep it.
            observe: called with each node and its outputs as soon as there are any.

        Raises:
            IRError: an input is missing or does not fit its type, or a node cannot run.
        """
        values, env = self._bind(inputs)
        with torch.no_grad():
            for (node, step), dead in zip(self._steps, self._dead, strict=True):
                arguments = [self._value(values, value) for value in node.inputs]
                try:
                    outputs = step(arguments, env)
                except GraphoptError:
                    raise
                except (RuntimeError, IndexError, ValueError, TypeError) as error:
                    raise _failed(node, arguments, error) from error
                for value, output in zip(node.outputs, outputs, strict=True):
                    values[value] = output
                if observe is not None:
                    observe(node, outputs)
                for value in dead:
                    values.pop(value, None)
            return tuple(self._value(values, value) for value in self.graph.outputs)

    def _value(self, values: dict[Value, Any], value: Value) -> Any:
        found = values.get(value)
        if found is None:
            weight, dtype = self._weights[value]
            found = values[value] = weight.to(dtype)
        return found

    def _bind(self, inputs: Mapping[str, Any]) -> tuple[dict[Value, Any], dict[str, int]]:
        unknown = inputs.keys() - {value.name for value in self.graph.inputs}
        if unknown:
            raise IRError("the graph has no such input", got=", ".join(sorted(unknown)))
        values: dict[Value, Any] = {}
        shapes: list[tuple[str, TensorType, tuple[int, ...]]] = []
        for value in self.graph.inputs:
            if value.name not in inputs:
                raise IRError(
                    "an input is missing", where=f"input {value.name}", expected=value.type
                )
            given = inputs[value.name]
            if isinstance(value.type, StateType):
                _check_state(value.name, value.type, given)
                values[value] = given
            else:
                tensor = torch.as_tensor(given)
                if tensor.dtype != torch_dtype(value.type.dtype):
                    raise IRError(
                        "an input has the wrong element type",
                        where=f"input {value.name}",
                        got=tensor.dtype,
                        expected=value.type,
                    )
                values[value] = tensor
                shapes.append((value.name, value.type, tuple(tensor.shape)))
        return values, bind_sizes(shapes)


def _weight(value: Value, weights: Mapping[str, Tensor]) -> tuple[Tensor, torch.dtype]:
    found, type_ = weights.get(value.name), value.type
    if not isinstance(type_, TensorType):
        raise IRError("a weight is not a tensor", where=f"weight {value.name}", got=type_)
    if found is None:
        raise IRError("a weight is missing", where=f"weight {value.name}", expected=type_)
    dtype = torch_dtype(type_.dtype)
    if tuple(found.shape) != type_.shape:
        raise IRError(
            "a weight has the wrong shape",
            where=f"weight {value.name}",
            got=f"[{', '.join(map(str, found.shape))}]",
            expected=type_,
        )
    if found.dtype != dtype and not (found.is_floating_point() and type_.dtype.is_float):
        raise IRError(
            "a weight has the wrong element type",
            where=f"weight {value.name}",
            got=found.dtype,
            expected=type_,
        )
    return found, dtype


def _check_state(name: str, type_: StateType, given: object) -> None:
    if not isinstance(given, PagedState):
        raise IRError(
            "an input is not a paged state", where=f"input {name}", got=type(given).__name__
        )
    if len(given.keys) != len(type_.layers):
        raise IRError(
            "a state has the wrong number of layers",
            where=f"input {name}",
            got=len(given.keys),
            expected=len(type_.layers),
        )
    if given.is_latent != type_.is_latent:
        raise IRError(
            "a state is of another kind",
            where=f"input {name}",
            got="latent" if given.is_latent else "kv",
            expected=type_.kind,
        )
    for index, layer in enumerate(type_.layers):
        dtype = torch_dtype(layer.dtype)
        for tensor, size in (
            (given.keys[index], layer.key_size),
            (given.values[index], layer.value_size),
        ):
            tail = (given.block_size, layer.heads, size)
            if tuple(tensor.shape[1:]) != tail or tensor.dtype != dtype:
                raise IRError(
                    f"layer {index} of a state does not fit its type",
                    where=f"input {name}",
                    got=f"{tensor.dtype}{list(tensor.shape)}",
                    expected=f"{dtype}[N, {', '.join(map(str, tail))}]",
                )


def _last_uses(graph: Graph) -> list[tuple[Value, ...]]:
    """For each node the values that nobody needs after it."""
    seen = set(graph.outputs)
    dead: list[tuple[Value, ...]] = []
    for node in reversed(graph.nodes):
        ends = [value for value in (*node.inputs, *node.outputs) if value not in seen]
        dead.append(tuple(dict.fromkeys(ends)))
        seen.update(ends)
    return dead[::-1]


def _failed(node: Node, arguments: list[Any], error: Exception) -> IRError:
    shapes = (
        f"{str(a.dtype).removeprefix('torch.')}{list(a.shape)}"
        if isinstance(a, Tensor)
        else "state"
        for a in arguments
    )
    place = f"{node.loc}: " if node.loc is not None and str(node.loc) else ""
    return IRError(
        f"{node.op} cannot run: {str(error).splitlines()[0] if str(error) else error!r}",
        where=place + print_node(node),
        got=", ".join(shapes),
    )
