"""Who makes which kernel: the code generators by family, each imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from inspect import signature
from typing import Any

from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.ir.graph import Graph
from graphopt.ledger import Verdict
from graphopt.region import Region

from .case import AbsentError

# Module below graphopt.codegen.triton, and function, by family of regions.
MAKERS: Mapping[str, tuple[str, str]] = {
    "pointwise": ("rows", "rows_kernel"),
    "row": ("rows", "rows_kernel"),
    "gather": ("rows", "rows_kernel"),
    "heads": ("rows", "rows_kernel"),
    "linear": ("linear", "linear_kernel"),
    "quantized": ("quant_linear", "quant_linear_kernel"),
    "fp8": ("quant_fp8", "fp8_linear_kernel"),
    "attention": ("attention", "attention_kernel"),
    "experts": ("experts", "experts_kernel"),
    "matmul": ("matmul", "matmul_kernel"),
}


def kernel_of(
    family: str, graph: Graph, region: Region, arch: int = 90, block_size: int = 0
) -> TritonKernel | Verdict:
    """The kernel of a region, or why there is none.

    Args:
        family: one of ``MAKERS``.
        graph: what the region is of.
        region: what is to be computed.
        arch: such as 90; makers that do not ask for it make the same for all.
        block_size: tokens of a page, for attention.

    Raises:
        AbsentError: nobody makes kernels of this family yet.
    """
    maker = made_by(*MAKERS[family])
    named = {"arch": arch, "block_size": block_size}
    asked = signature(maker).parameters
    given = {name: number for name, number in named.items() if name in asked}
    found: TritonKernel | Verdict = maker(graph, region, **given)
    return found


def made_by(module: str, name: str) -> Any:
    """A function of a code generator.

    Raises:
        AbsentError: it is not there.
    """
    path = f"graphopt.codegen.triton.{module}"
    try:
        return getattr(importlib.import_module(path), name)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        raise AbsentError(f"no module {path}") from error
    except AttributeError as error:
        raise AbsentError(f"no {name} in {path}") from error
