"""The nodes of a step through PyTorch, wherever their values lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import ArtifactError, GraphoptError
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.reference import Step as Compute
from graphopt.ir.reference import prepare
from graphopt.ir.types import StateType, TensorType
from graphopt.plan import Operand, Step
from graphopt.region import make_region


@dataclass(frozen=True, slots=True)
class TorchStep:
    """A step that is ready to run.

    Attributes:
        step: what is computed.
        operands: each value that it reads, and where that is.
        outputs: what goes into its slots.
        nodes: with a function each.
    """

    step: Step
    operands: tuple[tuple[Value, Operand], ...]
    outputs: tuple[Value, ...]
    nodes: tuple[tuple[Node, Compute], ...]

    @classmethod
    def of(cls, graph: Graph, step: Step, device: str | None = None) -> TorchStep:
        """The step of a plan of ``graph``; what comes from nowhere is made on ``device``."""
        region = make_region(graph, step.nodes)
        nodes = [graph.nodes[place] for place in step.nodes]
        return cls(
            step,
            tuple(zip(region.inputs, step.operands, strict=True)),
            tuple(value for value in region.outputs if not isinstance(value.type, StateType)),
            tuple((node, prepare(node, device=device)) for node in nodes),
        )

    @property
    def has_state(self) -> bool:
        """Whether it reads or writes keys and values."""
        return any(isinstance(value.type, StateType) for value, _ in self.operands)

    def run(self, given: Mapping[Value, Any], sizes: Mapping[str, int]) -> list[Any]:
        """The outputs, from the operands.

        Raises:
            GraphoptError: PyTorch refuses; the step is named.
        """
        values = dict(given)
        try:
            for node, compute in self.nodes:
                results = compute([values[value] for value in node.inputs], dict(sizes))
                values.update(zip(node.outputs, results, strict=True))
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise GraphoptError(
                f"step {self.step.kernel} failed",
                where=self.step.scope,
                got=f"{type(error).__name__}: {error}",
                next="run `graphopt verify` on the artifact",
            ) from error
        return [values[value] for value in self.outputs]


def tensor_type(value: Value) -> TensorType:
    """The type of a value that a slot holds.

    Raises:
        ArtifactError: it is no tensor.
    """
    if not isinstance(value.type, TensorType):
        raise ArtifactError("a slot holds no tensor", where=str(value), got=value.type)
    return value.type
