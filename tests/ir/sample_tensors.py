"""Random sizes of a step, and tensors for a sample's inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from random import Random
from typing import Any

import torch

from graphopt.ir.dtype import DType
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import StateType, TensorType

from .sample_types import Sample


def sizes_of_step(rng: Random) -> dict[str, int]:
    """Sizes of a run; one row may be wanted, several or none."""
    tokens = rng.choice((1, 2, 5, 11))
    return {"T": tokens, "R": rng.choice((0, 1, 3)), "S": min(tokens, rng.choice((1, 2))), "P": 3}


def tensor_for(
    type_: TensorType, env: Mapping[str, int], generator: torch.Generator, limit: int | None = None
) -> torch.Tensor:
    """Random contents: normal floats, small positive integers below ``limit``, either bool."""
    shape = [evaluate(dim, env) for dim in type_.shape]
    dtype = torch_dtype(type_.dtype)
    if type_.dtype.is_float:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    low, high = (0, limit) if limit is not None else (1, 5)
    if type_.dtype is DType.BOOL:
        low, high = 0, 2
    return torch.randint(low, max(high, low + 1), shape, generator=generator).to(dtype)


def inputs_for(sample: Sample, env: Mapping[str, int], seed: int) -> list[Any]:
    """Tensors and states of the sample's types, fit to be run together."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Any] = []
    for position, type_ in enumerate(sample.types):
        if isinstance(type_, StateType):
            found.append(PagedState.allocate(type_, 4, 4))
            continue
        limit = sample.limits.get(position)
        bound = None if limit is None else evaluate(limit, env)
        found.append(tensor_for(type_, env, generator, bound))
    if len(sample.types) >= 5 and isinstance(sample.types[1], StateType):
        found[2], found[3] = _ragged(env)
    return found


def _ragged(env: Mapping[str, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Starts and lengths of ``S`` sequences that share ``T`` rows out."""
    share = math.ceil(env["T"] / env["S"])
    starts = [min(i * share, env["T"]) for i in range(env["S"] + 1)]
    lengths = [b - a for a, b in pairwise(starts)]
    return torch.tensor(starts, dtype=torch.int32), torch.tensor(lengths, dtype=torch.int32)
