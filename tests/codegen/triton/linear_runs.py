"""Linear kernels in the interpreter against the IR's: fresh operands, poisoned results."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.codegen.triton.interpreter import run
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType
from graphopt.ir.widen import widen
from graphopt.region import Region

Tensors = Mapping[str, torch.Tensor]
GUARD = 64  # elements behind each result that stay as they are


def operands_of(graph: Graph, env: Mapping[str, int], seed: int) -> Tensors:
    """Normal floats, and integers that are rows of what they index."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for value in (*graph.inputs, *graph.weights):
        assert isinstance(value.type, TensorType)
        shape = [evaluate(size, env) for size in value.type.shape]
        dtype = torch_dtype(value.type.dtype)
        if value.type.dtype.is_float:
            scale = 1.0 if value in graph.inputs else shape[-1] ** -0.5
            found[value.name] = (scale * torch.randn(shape, generator=generator)).to(dtype)
        else:
            found[value.name] = torch.randint(0, env["T"], shape, generator=generator).to(dtype)
    return found


def expected(graph: Graph, given: Tensors) -> tuple[torch.Tensor, ...]:
    """The results of the IR's interpreter in float32."""
    wide = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in given.items()
    }
    weights = {value.name: wide[value.name] for value in graph.weights}
    inputs = {value.name: wide[value.name] for value in graph.inputs}
    return Interpreter(widen(graph), weights).run(inputs)


def alone(graph: Graph, region: Region) -> Graph:
    """The nodes of a region as a graph, with the region's operands and results."""
    return Graph(
        "region",
        tuple(value for value in region.inputs if not value.is_weight),
        tuple(value for value in region.inputs if value.is_weight),
        tuple(graph.nodes[place] for place in region.nodes),
        region.outputs,
    )


class Launch:
    """A kernel's memory, which outlives a run: the workspace too."""

    def __init__(self, kernel: TritonKernel, env: Mapping[str, int]) -> None:
        self.kernel = kernel
        self.work = torch.zeros(evaluate(kernel.workspace, env), dtype=torch.uint8)

    def results(
        self,
        graph: Graph,
        region: Region,
        variant: Variant,
        given: Tensors,
        env: Mapping[str, int],
    ) -> list[torch.Tensor]:
        """What a variant computes; what lies behind the results is not written."""
        pointers, found = [], []
        for one in arguments(graph, region):
            assert isinstance(one.value.type, TensorType)
            if one.kind is not Kind.RESULT:
                pointers.append(given[one.value.name].contiguous().clone())
                continue
            shape = [evaluate(size, env) for size in one.value.type.shape]
            count = torch.Size(shape).numel()
            dtype = torch_dtype(one.value.type.dtype)
            pointers.append(torch.full((count + GUARD,), float("nan")).to(dtype))
            found.append((pointers[-1], count, shape))
        if self.kernel.workspace:
            pointers.append(self.work)
        run(self.kernel, variant, pointers, env)
        for memory, count, _ in found:
            assert memory[count:].isnan().all(), "written past the end"
        return [memory[:count].reshape(shape) for memory, count, shape in found]


def check(
    graph: Graph,
    region: Region,
    kernel: TritonKernel,
    env: Mapping[str, int],
    tolerance: float,
    variants: tuple[Variant, ...] = (),
    seed: int = 0,
) -> None:
    """The results of each variant are the interpreter's, but for ``tolerance`` of their norm."""
    given = operands_of(graph, env, seed)
    wanted = expected(graph, given)
    launch = Launch(kernel, env)
    for variant in variants or (kernel.variant(env),):
        found = launch.results(graph, region, variant, given, env)
        for got, want in zip(found, wanted, strict=True):
            error, scale = (got.float() - want).norm(), want.norm()
            assert error <= tolerance * scale, f"{error} of {scale}, {variant}\n{kernel.text}"
