"""What the reference implementations share: steps, sizes known only at run time, element types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .dtype import DType
from .graph import Node
from .shape import Dim, Expr, evaluate

Env = Mapping[str, int]
Device = torch.device | str | None
# A node that is ready to run: its inputs and the sizes of the step to its outputs.
Step = Callable[[Sequence[Any], Env], tuple[Any, ...]]
Maker = Callable[[Node], Step]
Number = bool | int | float


def torch_dtype(dtype: DType) -> torch.dtype:
    """PyTorch's element type for ours."""
    found: torch.dtype = getattr(torch, dtype.torch_name)
    return found


def late_sizes(dims: Sequence[Dim]) -> Callable[[Env], list[int]]:
    """A function that gives sizes from the symbols of a step, at once if they have none."""
    if all(isinstance(dim, int) for dim in dims):
        fixed = [dim for dim in dims if isinstance(dim, int)]
        return lambda env: fixed
    frozen = tuple(dims)
    return lambda env: [dim if isinstance(dim, int) else evaluate(dim, env) for dim in frozen]


def late_number(value: Number | Expr) -> Callable[[Env], Number]:
    """A function that gives a number from the symbols of a step."""
    if isinstance(value, Expr):
        return lambda env: evaluate(value, env)
    return lambda env: value


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums of ``dtype`` are kept: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
