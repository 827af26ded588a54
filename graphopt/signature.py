"""How a function is called, and how its graph is: which argument is which input, what comes back.

before:  arguments in a row, some of them sizes, some written by the function
after:   the graph's inputs and sizes; its outputs as results, views, or arguments' new contents

A graph computes values; a function also shares memory. What a function returns of its arguments'
own memory, or twice of one memory, is made from the arguments and outputs, never computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.ir.shape import Dim


@dataclass(frozen=True, slots=True)
class Constant:
    """The same in every call, such as None."""

    value: object


@dataclass(frozen=True, slots=True)
class Size:
    """An integer that the call's sizes tell."""

    dim: Dim


@dataclass(frozen=True, slots=True)
class Argument:
    """The argument at this position itself."""

    index: int


@dataclass(frozen=True, slots=True)
class Output:
    """The graph's output at this position, in memory of its own."""

    index: int


@dataclass(frozen=True, slots=True)
class View:
    """Part of the memory of ``base``; ``offset`` counts elements from where that begins."""

    base: Argument | Output
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim


@dataclass(frozen=True, slots=True)
class Again:
    """The very tensor that is returned at this earlier position too."""

    position: int


Returned = Constant | Size | Argument | Output | View | Again


@dataclass(frozen=True, slots=True)
class Signature:
    """What a call of a function is in terms of its graph.

    Attributes:
        inputs: name of an input or weight of the graph, and the position of its argument.
        sizes: for each symbol the argument that tells it, and of which dimension of that it is the
            size; None where the argument is the size itself.
        layouts: for each output of the graph the strides that its memory must have; None where
            only its elements are wanted.
        writes: argument that the function writes, and the output that it holds afterwards.
        returned: what the function returns.
    """

    inputs: tuple[tuple[str, int], ...]
    sizes: Mapping[str, tuple[int, int | None]]
    layouts: tuple[tuple[Dim, ...] | None, ...]
    writes: tuple[tuple[int, int], ...]
    returned: tuple[Returned, ...]

    def bind(self, arguments: Sequence[Any]) -> dict[str, int]:
        """The value of each size in one call."""
        return {
            symbol: int(arguments[index] if dim is None else arguments[index].shape[dim])
            for symbol, (index, dim) in self.sizes.items()
        }
