"""Linear maps in fp8: their graphs, operands, and the IR's results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType
from graphopt.region import Region
from tests.codegen.cpp.linear_cases import After, Before, linear_case

from .linear_runs import Launch, Tensors, expected
from .linear_shapes import shape_case

Case = tuple[Graph, Region]


def in_fp8(case: Case, block: int) -> Case:
    """The same graph with its linear map in fp8."""
    graph, region = case
    anchor = next(node for node in graph.nodes if node.op == "linear")
    weight = anchor.inputs[1]
    assert isinstance(weight.type, TensorType)
    shape = weight.type.shape
    sizes = tuple((size + block - 1) // block for size in shape) if block else ()
    numbers = replace(weight, type=TensorType(DType.F8E4M3, shape))
    scales = replace(weight, name=f"{weight.name}.scales", type=TensorType(DType.F32, sizes))
    inputs = (anchor.inputs[0], numbers, scales, *anchor.inputs[2:])
    now = replace(anchor, op="fp8_linear", inputs=inputs, attrs=MappingProxyType({"block": block}))
    made = replace(
        graph,
        weights=(*(one for one in graph.weights if one is not weight), numbers, scales),
        nodes=tuple(now if node is anchor else node for node in graph.nodes),
    )
    operands: list[object] = []
    for value in region.inputs:
        operands += [numbers, scales] if value is weight else [value]
    return made, replace(region, inputs=tuple(operands))  # type: ignore[arg-type]


def fp8_case(before: Before, after: After, dtype: DType, block: int) -> Case:
    """A small graph."""
    return in_fp8(linear_case(before, after, dtype), block)


def fp8_shape(model: str, kind: str, block: int) -> Case | None:
    """A linear map of a model at its real size."""
    case = shape_case(model, kind)
    return None if case is None else in_fp8(case, block)


def operands_of(graph: Graph, env: Mapping[str, int], seed: int) -> Tensors:
    """Normal floats, also in fp8, and rows of what is gathered."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for value in (*graph.inputs, *graph.weights):
        assert isinstance(value.type, TensorType)
        shape = [evaluate(size, env) for size in value.type.shape]
        if value.type.dtype.is_float:
            made = torch.randn(shape, generator=generator)
            made = made.abs() + 0.1 if value.name.endswith("scales") else made
        else:
            made = torch.randint(0, env["T"], shape, generator=generator)
        found[value.name] = made.to(getattr(torch, value.type.dtype.torch_name))
    return found


def check(
    case: Case, kernel: TritonKernel, env: Mapping[str, int], tolerance: float, seed: int = 0
) -> None:
    """The results are the IR's but for ``tolerance``, and the same again."""
    graph, region = case
    given = operands_of(graph, env, seed)
    variant, launch = kernel.variant(env), Launch(kernel, env)
    found = launch.results(graph, region, variant, given, env)
    for got, want in zip(found, expected(graph, given), strict=True):
        error, scale = (got.float() - want).norm(), want.norm()
        assert error <= tolerance * scale, f"{error} of {scale}, {variant}\n{kernel.text}"
    again = launch.results(graph, region, variant, given, env)
    assert all(map(torch.equal, found, again))
