"""A compiled function as something to call with arrays: the artifact of one, opened.

before:  a function's artifact
after:   ``call(x=array) -> {"y": array}``; shapes and types are checked before anything runs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch

from graphopt.errors import ArtifactError, UsageError
from graphopt.function_plan import FunctionArtifact, FunctionStep
from graphopt.ir.bind import bind_sizes
from graphopt.ir.graph import Graph
from graphopt.ir.ops import is_view
from graphopt.ir.parser import parse_graph
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import Expr, Symbol
from graphopt.ir.types import TensorType
from graphopt.ir.verify import verify
from graphopt.region import make_region
from graphopt.signature import Output, Signature

from .function import FunctionExecutor
from .torch import weight_tensor


class CompiledFunction:
    """A function that is ready to be called.

    Args:
        artifact: what to run; its weights stay mapped and are not copied.

    Attributes:
        inputs: type of each argument by name, in order.
        outputs: type of each result by name, in order.

    Raises:
        ArtifactError: the plan does not fit its graph or its weights.
    """

    def __init__(self, artifact: FunctionArtifact) -> None:
        plan = artifact.plan
        graph = parse_graph(artifact.graph_text())
        verify(graph)
        _check(plan.steps, plan.outputs, graph)
        self.name = plan.name
        self.inputs = {value.name: _tensor(value.type) for value in graph.inputs}
        self.outputs = {
            name: _tensor(value.type)
            for name, value in zip(plan.outputs, graph.outputs, strict=True)
        }
        weights = {}
        for value in graph.weights:
            weights[value.name] = weight_tensor(artifact, value.name)
            stored = TensorType(
                artifact.weights.dtype(value.name), tuple(weights[value.name].shape)
            )
            if stored != value.type:
                raise ArtifactError(
                    f"weight {value.name} is not what the graph expects",
                    got=stored,
                    expected=value.type,
                )
        self._run = FunctionExecutor(
            graph,
            [make_region(graph, step.nodes) for step in plan.steps],
            [(step.backend, step.kernel) for step in plan.steps],
            _signature(graph),
            weights,
        )

    def __call__(self, *arguments: Any, **named: Any) -> dict[str, npt.NDArray[Any]]:
        """One call.

        Args:
            *arguments: arrays or tensors, in the order of ``inputs``.
            **named: the same by name.

        Returns:
            The results by name, in the order of ``outputs``; bf16 comes as float32.

        Raises:
            UsageError: an argument is missing, or has another element type.
            IRError: a shape does not fit.
        """
        tensors = [self._given(name, value) for name, value in self._bound(arguments, named)]
        bind_sizes(
            (name, type_, tuple(tensor.shape))
            for (name, type_), tensor in zip(self.inputs.items(), tensors, strict=True)
        )
        results = self._run(*tensors)
        return {
            name: (result.float() if result.dtype is torch.bfloat16 else result).numpy()
            for name, result in zip(self.outputs, results, strict=True)
        }

    def _bound(
        self, arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> Sequence[tuple[str, Any]]:
        """The arguments by name, in the order of the inputs."""
        given = dict(zip(self.inputs, arguments, strict=False))
        twice = [*(given.keys() & named.keys()), *arguments[len(self.inputs) :]]
        missing = self.inputs.keys() - given.keys() - named.keys()
        unknown = named.keys() - self.inputs.keys()
        if twice or missing or unknown:
            raise UsageError(
                f"{self.name} is not called like this",
                got=f"{len(arguments)} arguments, and {', '.join(sorted(named)) or 'none'} by name",
                expected=", ".join(f"{name}: {type_}" for name, type_ in self.inputs.items()),
            )
        given.update(named)
        return [(name, given[name]) for name in self.inputs]

    def _given(self, name: str, value: Any) -> torch.Tensor:
        wanted = self.inputs[name]
        try:
            tensor: torch.Tensor = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"argument {name} is no array", got=type(value).__name__, expected=wanted
            ) from error
        if tensor.dtype is not torch_dtype(wanted.dtype):
            raise UsageError(
                f"argument {name} has another element type", got=tensor.dtype, expected=wanted
            )
        return tensor


def _tensor(type_: object) -> TensorType:
    if not isinstance(type_, TensorType):
        raise ArtifactError("a function takes and gives tensors", got=type_)
    return type_


def _check(steps: Sequence[FunctionStep], outputs: Sequence[str], graph: Graph) -> None:
    """Every node after what it reads, none computed twice, and a name for every output.

    A change of shape computes nothing, so several steps may hold it.
    """
    known = {*graph.inputs, *graph.weights}
    for place in (place for step in steps for place in step.nodes):
        node = graph.nodes[place] if place < len(graph.nodes) else None
        if node is not None and is_view(node.op) and known.issuperset(node.outputs):
            continue
        if node is None or not known.issuperset(node.inputs) or not known.isdisjoint(node.outputs):
            raise _unfit(f"node {place} runs too early or twice, or is not there", graph)
        known.update(node.outputs)
    missing = sum(not known.issuperset(node.outputs) for node in graph.nodes)
    if missing or len(outputs) != len(graph.outputs):
        raise _unfit(f"steps for all but {missing}, {len(outputs)} outputs", graph)


def _unfit(got: str, graph: Graph) -> ArtifactError:
    return ArtifactError(
        "the plan does not fit its graph",
        got=got,
        expected=f"{len(graph.nodes)} nodes, {len(graph.outputs)} outputs",
        next="compile the model again: plan and graph do not belong together",
    )


def _signature(graph: Graph) -> Signature:
    """Each input an argument, each output returned in memory of its own."""
    sizes: dict[str, tuple[int, int | None]] = {}
    for index, value in enumerate(graph.inputs):
        for axis, dim in enumerate(_tensor(value.type).shape):
            match dim:
                case Expr(terms=(((Symbol(name=name),), 1),)):
                    sizes.setdefault(name, (index, axis))
    return Signature(
        tuple((value.name, index) for index, value in enumerate(graph.inputs)),
        sizes,
        (None,) * len(graph.outputs),
        (),
        tuple(Output(index) for index in range(len(graph.outputs))),
    )
