"""Graphs in single assignment form: values, nodes, and where in the model's source they come from.

Everything here is immutable. A pass makes a new graph; values it does not touch are shared.
State is a value too: each write gives a new version, so data edges alone carry the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from .dtype import DType
from .shape import Expr
from .types import Type


@dataclass(frozen=True, slots=True)
class Operand:
    """Input ``index`` in the argument template of an ``aten.*`` node. Prints as ``$0``."""

    index: int

    def __str__(self) -> str:
        return f"${self.index}"


Attr = None | bool | int | float | str | DType | Expr | Operand | tuple["Attr", ...]


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where the model's own code computes a node.

    Attributes:
        file: base name of the source file, such as ``modeling_llama.py``; empty if unknown.
        line: line number from 1; 0 if unknown.
        module: path of the module, such as ``model.layers.0.self_attn``; empty for the top.
    """

    file: str
    line: int
    module: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else ""
        return " ".join(part for part in (place, self.module and f"in {self.module}") if part)


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """The result of a node, an input or a weight; equal only to itself."""

    name: str
    type: Type
    is_weight: bool = False

    def __str__(self) -> str:
        return f"@{self.name}" if self.is_weight else f"%{self.name}"

    def __repr__(self) -> str:
        return f"<{self}: {self.type}>"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation. ``attrs`` is what is known when compiling; ``inputs`` are values."""

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Attr] = field(default_factory=lambda: MappingProxyType({}))
    loc: SourceLocation | None = None

    def __repr__(self) -> str:
        outputs = ", ".join(map(str, self.outputs))
        return f"<{outputs} = {self.op}({', '.join(map(str, self.inputs))})>"

    @property
    def output(self) -> Value:
        """The first output, for operators that have one."""
        return self.outputs[0]


@dataclass(frozen=True, eq=False)
class Graph:
    """A function from ``inputs`` and ``weights`` to ``outputs``; ``nodes`` are in running order."""

    name: str
    inputs: tuple[Value, ...]
    weights: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]

    @cached_property
    def producers(self) -> Mapping[Value, Node]:
        """The node that makes each value; inputs and weights have none."""
        return {output: node for node in self.nodes for output in node.outputs}

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value, in order, each once; a value nobody reads is absent."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.inputs):
                found.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in found.items()}

    def values(self) -> Iterator[Value]:
        """Inputs, weights and every node's outputs."""
        yield from self.inputs
        yield from self.weights
        for node in self.nodes:
            yield from node.outputs

    def nodes_named(self, op: str) -> tuple[Node, ...]:
        """The nodes whose operator is ``op``."""
        return tuple(node for node in self.nodes if node.op == op)

    def input(self, name: str) -> Value:
        """The input called ``name``.

        Raises:
            KeyError: there is none.
        """
        for value in self.inputs:
            if value.name == name:
                return value
        raise KeyError(name)
