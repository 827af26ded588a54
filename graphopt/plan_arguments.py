"""The pointers that a compiled kernel is called with, in order.

A kernel takes its step's operands, then its results, then its workspace if it has one. A state
takes two pointers: the keys and the values of one layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from graphopt.errors import ArtifactError
from graphopt.ir.graph import Graph
from graphopt.ir.ops_spec import int_of
from graphopt.plan import Step


class Kind(Enum):
    """What a pointer points to."""

    SLOT = "slot"
    WEIGHT = "weight"
    KEYS = "keys"
    VALUES = "values"
    WORKSPACE = "workspace"


@dataclass(frozen=True, slots=True)
class Argument:
    """One pointer.

    Attributes:
        kind: what it points to.
        number: of the slot or the layer.
        name: of the weight.
    """

    kind: Kind
    number: int = 0
    name: str = ""


def arguments_of(step: Step, layer: int = 0) -> tuple[Argument, ...]:
    """The pointers that the kernel of ``step`` takes; ``layer`` is the one it reads or writes."""
    found: list[Argument] = []
    for operand in step.operands:
        if isinstance(operand, int):
            found.append(Argument(Kind.SLOT, operand))
        elif operand.startswith("@"):
            found.append(Argument(Kind.WEIGHT, name=operand[1:]))
        else:
            found += [Argument(Kind.KEYS, layer), Argument(Kind.VALUES, layer)]
    found += [Argument(Kind.SLOT, slot) for slot in step.results]
    if step.workspace != 0:
        found.append(Argument(Kind.WORKSPACE))
    return tuple(found)


def layer_of(graph: Graph, step: Step) -> int:
    """The layer whose state a step reads or writes; 0 for a step without state.

    Raises:
        ArtifactError: it uses the state of more than one.
    """
    nodes = [graph.nodes[place] for place in step.nodes]
    layers = {int_of(node.attrs, "layer") for node in nodes if "layer" in node.attrs}
    if len(layers) > 1:
        raise ArtifactError("a step uses the state of several layers", where=step.name, got=layers)
    return next(iter(layers), 0)
