"""A region's kernel in Triton's interpreter against the IR's: random operands, poison around."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from graphopt.codegen.rows.arguments import Kind, arguments
from graphopt.codegen.triton.interpreter import run
from graphopt.codegen.triton.kernel import TritonKernel, Variant
from graphopt.ir.graph import Graph
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.region import Region
from tests.codegen.region_case import compare, random_operands
from tests.codegen.rows.cases import region_graph
from tests.passes.models import lowered

GUARD = 64  # elements after each result and workspace that must stay as they are


@dataclass(frozen=True, slots=True)
class RegionCase:
    """A graph that is one region, and its kernel."""

    graph: Graph
    region: Region
    kernel: TritonKernel


def family_cases(
    name: str, family: str, maker: Callable[[Graph, Region], TritonKernel | Verdict]
) -> list[RegionCase]:
    """The regions of one kernel family in a small decoder, each as a graph of its own."""
    found = lowered(name)
    cases: dict[str, RegionCase] = {}
    for region in found.regions:
        if region.family == family:
            kernel = maker(found.graph, region)
            assert isinstance(kernel, TritonKernel), kernel
            cases[kernel.name] = RegionCase(region_graph(found.graph, region), region, kernel)
    return list(cases.values())


def interpreted(
    case: RegionCase, variant: Variant, given: Mapping[str, torch.Tensor], env: Mapping[str, int]
) -> tuple[torch.Tensor, ...]:
    """The results of one variant; what it does not write is NaN."""
    pointers: list[torch.Tensor] = []
    results: list[tuple[torch.Tensor, list[int]]] = []
    for argument in arguments(case.graph, case.region):
        type_ = argument.value.type
        assert isinstance(type_, TensorType)
        if argument.kind is Kind.RESULT:
            shape = [evaluate(size, env) for size in type_.shape]
            memory = torch.full(
                (math.prod(shape) + GUARD,), math.nan, dtype=torch_dtype(type_.dtype)
            )
            results.append((memory, shape))
            pointers.append(memory)
        else:
            pointers.append(given[argument.value.name].contiguous())
    workspace = torch.zeros(evaluate(case.kernel.workspace, env) + GUARD, dtype=torch.uint8)
    if None in case.kernel.pointers:
        pointers.append(workspace)
    run(case.kernel, variant, pointers, env)
    assert not workspace[-GUARD:].any(), "written past the end"
    for memory, _ in results:
        assert memory[-GUARD:].isnan().all(), "written past the end"
    return tuple(memory[:-GUARD].reshape(shape) for memory, shape in results)


def check(
    case: RegionCase,
    variant: Variant,
    given: Mapping[str, torch.Tensor],
    env: Mapping[str, int],
    tolerance: float,
) -> None:
    """A variant's results are the IR's, but for ``tolerance`` of their norm."""
    found = interpreted(case, variant, given, env)
    compare(case, given, found, tolerance, f"{variant}\n{case.kernel.text}")


def check_family(
    name: str,
    family: str,
    maker: Callable[[Graph, Region], TritonKernel | Verdict],
    tolerance: float,
) -> None:
    """Every variant of one kernel family in a small decoder, which has some, for 1 and 5 tokens."""
    real = family_cases(name, family, maker)
    assert real
    for case in real:
        for tokens in (1, 5):
            env = {"T": tokens, "R": 1}
            given = random_operands(case, env, torch.Generator().manual_seed(tokens))
            for variant in case.kernel.variants:
                check(case, variant, given, env, tolerance)
