"""Appends IR nodes while importing, and leaves out those that do nothing.

A reshape to the shape a value has, a cast to its own type, two permutations in a row, a slice of
parts that were just joined: models are full of them, and no rule should have to look through them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.errors import TraceError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Node, SourceLocation, Value
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType, Type


def type_of(value: Value) -> TensorType:
    """The tensor type of a value.

    Raises:
        TraceError: it is a state.
    """
    if isinstance(value.type, TensorType):
        return value.type
    raise TraceError("a state is used as a tensor", got=value)


class Emitter:
    """Emits nodes with one current source location.

    Attributes:
        loc: where the model computes what is being emitted.
        known: small integer constants, by the weight that holds them.
    """

    def __init__(self, builder: GraphBuilder) -> None:
        self.builder = builder
        self.loc: SourceLocation | None = None
        self.known: dict[Value, list[int]] = {}
        self._makers: dict[Value, Node] = {}

    def node(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Attr] | None = None,
        types: Sequence[Type] | None = None,
    ) -> tuple[Value, ...]:
        """Appends a node as it is."""
        outputs = self.builder.node(op, inputs, attrs, loc=self.loc, types=types)
        made = self.builder.nodes[-1]
        for value in outputs:
            self._makers[value] = made
        return outputs

    def one(
        self, op: str, inputs: Sequence[Value], attrs: Mapping[str, Attr] | None = None
    ) -> Value:
        """Appends a node with one output, and gives it."""
        return self.node(op, inputs, attrs)[0]

    def maker(self, value: Value, op: str) -> Node | None:
        """The node that makes ``value``, if its operator is ``op``."""
        node = self.made_by(value)
        return node if node is not None and node.op == op else None

    def made_by(self, value: Value) -> Node | None:
        """The node that makes ``value``; None for inputs and weights."""
        return self._makers.get(value)

    def cast(self, x: Value, dtype: DType) -> Value:
        """``x`` with elements of ``dtype``."""
        return x if type_of(x).dtype is dtype else self.one("cast", [x], {"dtype": dtype})

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        """``x`` under another shape."""
        if type_of(x).shape == tuple(shape):
            return x
        inner = self.maker(x, "reshape")
        if inner is not None:
            return self.reshape(inner.inputs[0], shape)
        return self.one("reshape", [x], {"shape": tuple(shape)})

    def permute(self, x: Value, dims: Sequence[int]) -> Value:
        """``x`` with dimensions in another order."""
        rank = len(dims)
        order = [dim % rank for dim in dims]
        inner = self.maker(x, "permute")
        if inner is not None:
            before = inner.attrs["dims"]
            if isinstance(before, tuple):
                composed = [int(before[dim]) for dim in order]  # type: ignore[arg-type]
                return self.permute(inner.inputs[0], composed)
        if order == list(range(rank)):
            return x
        return self.one("permute", [x], {"dims": tuple(order)})

    def expand(self, x: Value, shape: Sequence[Dim]) -> Value:
        """``x`` repeated to ``shape``."""
        if type_of(x).shape == tuple(shape):
            return x
        return self.one("expand", [x], {"shape": tuple(shape)})

    def slice(self, x: Value, dim: int, start: Dim, end: Dim, step: int = 1) -> Value:
        """Elements from ``start`` to ``end``, both counted from the front."""
        size = type_of(x).shape[dim]
        if start == 0 and end == size and step == 1:
            return x
        parts = self._whole_parts(x, dim, start, end) if step == 1 else None
        if parts:
            return self.concat(parts, dim)
        return self.one("slice", [x], {"dim": dim, "start": start, "end": end, "step": step})

    def concat(self, parts: Sequence[Value], dim: int) -> Value:
        """``parts`` one after the other; empty ones are left out."""
        kept = [part for part in parts if type_of(part).shape[dim] != 0] or [parts[0]]
        return kept[0] if len(kept) == 1 else self.one("concat", kept, {"dim": dim})

    def full(self, shape: Sequence[Dim], dtype: DType, value: bool | int | float) -> Value:
        """One value everywhere."""
        return self.one("full", [], {"shape": tuple(shape), "dtype": dtype, "value": value})

    def _whole_parts(self, x: Value, dim: int, start: Dim, end: Dim) -> list[Value] | None:
        """The inputs of the concatenation ``x`` that lie between ``start`` and ``end`` exactly."""
        joined = self.maker(x, "concat")
        if joined is None or joined.attrs["dim"] != dim:
            return None
        position: Dim = 0
        inside: list[Value] = []
        began = False
        for part in joined.inputs:
            began = began or position == start
            if position == end:
                break
            if began:
                inside.append(part)
            position = position + type_of(part).shape[dim]
        return inside if began and position == end else None
