"""Runs one operator on tensors, with types taken from them."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr
from graphopt.ir.reference import prepare
from graphopt.ir.types import TensorType, Type


def type_of(tensor: torch.Tensor) -> TensorType:
    return TensorType(DType.from_torch_name(str(tensor.dtype)), tuple(tensor.shape))


def run(
    op: str,
    *tensors: torch.Tensor,
    types: list[Type] | None = None,
    env: dict[str, int] | None = None,
    **attrs: Attr,
) -> Any:
    """The output of one node, or a tuple of them."""
    builder = GraphBuilder("one")
    values = [builder.input(str(i), type_of(tensor)) for i, tensor in enumerate(tensors)]
    builder.node(op, values, attrs, types=types)
    results = prepare(builder.nodes[0])(tensors, env or {})
    return results[0] if len(results) == 1 else results
