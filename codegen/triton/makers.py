"""Who makes the kernel of a region: a template for each family, and for each kind of product.

before:  a region of a graph
after:   its kernel, or why there is none
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from graphopt.gpu_packing import GpuPacking
from graphopt.ir.graph import Graph
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..rows.arguments import arguments
from ..rows.parts import anchor_of
from .attention import attention_kernel
from .buckets import buckets_of
from .dependent import FIRST_ARCH, with_dependent_launch
from .early import small_count
from .experts import experts_kernel
from .kernel import TritonKernel
from .linear import linear_kernel
from .matmul import matmul_kernel
from .quant_fp8 import fp8_linear_kernel
from .quant_linear import quant_linear_kernel
from .rows import NO_PACKINGS, rows_kernel

Maker = Callable[..., TritonKernel | Verdict]
MAKERS: Mapping[str, Maker] = {
    "pointwise": rows_kernel,
    "row": rows_kernel,
    "gather": rows_kernel,
    "heads": rows_kernel,
    "view": rows_kernel,
    "opaque": rows_kernel,
    "linear": linear_kernel,
    "attention": attention_kernel,
    "experts": experts_kernel,
    "matmul": matmul_kernel,
}
# Linear regions around another operator than ``linear``.
ANCHORS: Mapping[str, Maker] = {
    "quantized_linear": quant_linear_kernel,
    "fp8_linear": fp8_linear_kernel,
}


def kernel_of(
    graph: Graph,
    region: Region,
    *,
    arch: int,
    block_size: int,
    packings: Mapping[str, GpuPacking] = NO_PACKINGS,
    deterministic: bool = False,
    dependent: bool = False,
) -> TritonKernel | Verdict:
    """The kernel of a region, or why there is none.

    Args:
        graph: what the region is of.
        region: what is to be computed.
        arch: the GPU to choose tiles for, such as 90.
        block_size: slots in a block of state.
        packings: how weights in few bits lie, by name; the others lie row after row.
        deterministic: whether what a row gives must not depend on what else is in its step: the
            kernel then has one variant, or alternatives of which one runs, for all sizes.
        dependent: whether it begins while the kernel before it ends, if the GPU can do that.
    """
    dependent = dependent and arch >= FIRST_ARCH
    made = _made(graph, region, arch, block_size, packings, deterministic)
    if isinstance(made, Verdict):
        return made
    if deterministic:
        made = replace(made, variants=buckets_of(made.variants)[-1].candidates)
    return with_dependent_launch(made, _small(graph, region)) if dependent else made


def _small(graph: Graph, region: Region) -> dict[int, int]:
    """Elements of small weights, by the place of their pointers."""
    given = arguments(graph, region)
    found = {one.index: small_count(one.value.type) for one in given if one.value.is_weight}
    return {place: count for place, count in found.items() if count}


def _made(
    graph: Graph,
    region: Region,
    arch: int,
    block_size: int,
    packings: Mapping[str, GpuPacking],
    deterministic: bool,
) -> TritonKernel | Verdict:
    """What a region's maker gives; two of them are told how the kernel shall be."""
    maker = MAKERS.get(region.family)
    if maker is None:
        ops = ", ".join(dict.fromkeys(graph.nodes[place].op for place in region.nodes))
        return refuse(f"no template yet computes {ops}")
    if is_told_packings(region):
        return maker(graph, region, packings)
    if region.family == "attention":
        return maker(graph, region, block_size, arch=arch, deterministic=deterministic)
    if region.family == "linear":
        other = ANCHORS.get(anchor_of(graph, region).op)
        if other is not None:
            return other(graph, region, arch=arch)
        return maker(graph, region, arch=arch, deterministic=deterministic)
    return maker(graph, region)


def is_told_packings(region: Region) -> bool:
    """Whether what computes a region reads weights in few bits however they lie."""
    return MAKERS.get(region.family) is rows_kernel
