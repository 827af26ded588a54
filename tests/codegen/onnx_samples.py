"""Random uses of operators through ONNX's reference, beside the interpreter's."""

from __future__ import annotations

from random import Random

import torch

from graphopt.codegen.onnx_export import export_function
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.reference import prepare
from graphopt.ir.shape import symbols
from graphopt.ir.types import TensorType
from tests.codegen.onnx_run import run_reference, with_weights
from tests.ir.sample_tensors import inputs_for, sizes_of_step
from tests.ir.sample_types import Sample
from tests.ir.samples import SAMPLES

# ‖out − ref‖ / ‖ref‖; the standard's reference keeps the sums of narrow types in the type itself.
LIMITS = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 1e-2}


def told(sample: Sample) -> bool:
    """Whether the inputs' shapes tell every size that the attributes name."""
    known: set[str] = set()
    named: set[str] = set()
    for type_ in sample.types:
        if isinstance(type_, TensorType):
            for dim in type_.shape:
                known |= symbols(dim)
    for attr in sample.attrs.values():
        for item in attr if isinstance(attr, tuple) else (attr,):
            if not isinstance(item, float | str | bool) and hasattr(item, "terms"):
                named |= symbols(item)  # type: ignore[arg-type]
    return named <= known


def check(op: str, seed: int) -> None:
    """Demands that one random use of ``op`` computes the same in ONNX."""
    rng = Random(f"{op}{seed}")
    sample, env = SAMPLES[op](rng), sizes_of_step(rng)
    while not told(sample) or not _defined(op, sample):
        sample = SAMPLES[op](rng)
    builder = GraphBuilder("one")
    values = [builder.input(f"x{i}", type_) for i, type_ in enumerate(sample.types)]
    graph = builder.finish(builder.node(op, values, sample.attrs))
    inputs = inputs_for(sample, env, seed)
    expected = prepare(graph.nodes[0])(inputs, env)
    proto = with_weights(export_function(graph, {}), {})
    named = {value.name: tensor for value, tensor in zip(values, inputs, strict=True)}
    for got, wanted in zip(run_reference(proto, graph, named), expected, strict=True):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        assert error(got, wanted) <= LIMITS.get(wanted.dtype, 0.0), (sample, got, wanted)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """‖got − wanted‖ / ‖wanted‖, where both are infinite or no number alike they agree."""
    a, b = got.double(), wanted.double()
    same = (a == b) | (a.isnan() & b.isnan())
    a, b = a.masked_fill(same & ~b.isfinite(), 0), b.masked_fill(same & ~b.isfinite(), 0)
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


def _defined(op: str, sample: Sample) -> bool:
    """Whether the operator says what comes out; equal scores of a router are in no order."""
    attrs = sample.attrs
    return op != "moe_router" or attrs.get("top_groups", 1) == attrs.get("groups", 1)
