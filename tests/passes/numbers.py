"""Whether a rewritten graph computes what it did: both interpreted, on random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.types import TensorType
from graphopt.ledger import Entry
from graphopt.passes.manager import Pass, PassContext, run_passes
from tests.ir.sample_tensors import tensor_for

SIZES = (1, 2, 13)


def rewritten(graph: Graph, *passes: Pass) -> tuple[Graph, tuple[Entry, ...]]:
    """The graph after the passes, verified, and what they wrote into the ledger."""
    context = PassContext()
    result, _ = run_passes(graph, passes, context)
    return result, tuple(context.ledger.entries)


def operators(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def reasons(entries: Sequence[Entry], but: str = "") -> str:
    """Why what was refused was refused, by other rules than ``but``."""
    return "; ".join(entry.reason for entry in entries if not entry.applied and entry.rule != but)


def applied(entries: Sequence[Entry]) -> list[str]:
    return [entry.rule for entry in entries if entry.applied]


def random_values(
    graph: Graph, tokens: int, seed: int, scale: float = 1.0
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Inputs and weights of a graph."""
    generator = torch.Generator().manual_seed(seed)

    def made(values: Sequence[Any], factor: float) -> dict[str, Tensor]:
        found = {}
        for value in values:
            assert isinstance(value.type, TensorType)
            tensor = tensor_for(value.type, {"T": tokens}, generator)
            found[value.name] = tensor * factor if tensor.is_floating_point() else tensor
        return found

    return made(graph.inputs, scale), made(graph.weights, 1.0)


def outputs(
    graph: Graph, inputs: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    return Interpreter(graph, weights).run(inputs)


def worst(before: Graph, after: Graph, *, scale: float = 1.0) -> float:
    """The greatest difference, relative to the greatest element of the output, over all sizes."""
    errors = [0.0]
    for seed, tokens in enumerate(SIZES):
        inputs, weights = random_values(before, tokens, seed, scale)
        wanted, found = (outputs(graph, inputs, weights) for graph in (before, after))
        for old, new in zip(wanted, found, strict=True):
            assert old.dtype == new.dtype
            assert old.shape == new.shape
            assert torch.isfinite(old).all()
            difference = (old.double() - new.double()).abs().max()
            errors.append(float(difference / old.double().abs().max()))
    return max(errors)
