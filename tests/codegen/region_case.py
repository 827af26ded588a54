"""A graph that is one region: random operands for it, and what the IR's interpreter makes of them.

Whatever a backend's kernel is written in, its results are compared with these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch

from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType
from graphopt.ir.widen import widen


class Case(Protocol):
    """What has a graph that is one region."""

    @property
    def graph(self) -> Graph: ...


def random_operands(
    case: Case, env: Mapping[str, int], generator: torch.Generator, below: int = 4
) -> dict[str, torch.Tensor]:
    """Normal floats, and integers from -1 to ``below``."""
    found: dict[str, torch.Tensor] = {}
    for value in (*case.graph.inputs, *case.graph.weights):
        assert isinstance(value.type, TensorType)
        shape = [evaluate(size, env) for size in value.type.shape]
        dtype = torch_dtype(value.type.dtype)
        if value.type.dtype.is_float:
            found[value.name] = torch.randn(shape, generator=generator).to(dtype)
        else:
            found[value.name] = torch.randint(-1, below + 1, shape, generator=generator).to(dtype)
    return found


def expected(case: Case, given: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The results of the IR's interpreter in float32."""
    wide = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in given.items()
    }
    weights = {value.name: wide[value.name] for value in case.graph.weights}
    inputs = {value.name: wide[value.name] for value in case.graph.inputs}
    return Interpreter(widen(case.graph), weights).run(inputs)


def compare(
    case: Case,
    given: Mapping[str, torch.Tensor],
    found: Iterable[torch.Tensor],
    tolerance: float,
    by: object,
) -> None:
    """What a kernel gave is the interpreter's, but for ``tolerance`` of its norm."""
    for got, want in zip(found, expected(case, given), strict=True):
        assert got.shape == want.shape
        error, scale = (got.float() - want).norm(), want.norm()
        assert error <= tolerance * scale, f"{error} of {scale} by {by}"
