"""The pointers that a kernel finds in ``a``: the region's operands, its results, its workspace.

An operand of state is two pointers, the keys and the values of the layer that the region reads or
writes; results that are state are none, since state is updated where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import StateType, TensorType
from graphopt.region import Region


class Kind(Enum):
    """What a pointer points to."""

    OPERAND = "operand"
    KEYS = "keys"
    VALUES = "values"
    RESULT = "result"


@dataclass(frozen=True, slots=True)
class Argument:
    """One pointer.

    Attributes:
        value: the value whose memory it is.
        kind: what part of it, and whether it is read or written.
        index: its place in ``a``.
    """

    value: Value
    kind: Kind
    index: int

    @property
    def dtype(self) -> DType | None:
        """Type of the elements; None for state."""
        return self.value.type.dtype if isinstance(self.value.type, TensorType) else None


def arguments(graph: Graph, region: Region) -> tuple[Argument, ...]:
    """The pointers of a region's kernel, in order; a workspace follows them."""
    found: list[Argument] = []
    for value in region.inputs:
        is_state = isinstance(value.type, StateType)
        kinds = (Kind.KEYS, Kind.VALUES) if is_state else (Kind.OPERAND,)
        found += [Argument(value, kind, len(found) + i) for i, kind in enumerate(kinds)]
    for value in region.outputs:
        if not isinstance(value.type, StateType):
            found.append(Argument(value, Kind.RESULT, len(found)))
    return tuple(found)
