"""How long a region takes at least: its bytes and its arithmetic over a GPU's rates.

A bound, not a guess: the larger of what memory and what the tensor cores need, and nothing for the
launch. Tuning says with it how good the best candidate is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim, evaluate
from graphopt.region import Region
from graphopt.report.costs import region_bytes, region_flops
from graphopt.report.items import Item


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU's rates, as its vendor says for dense bf16 products with float32 sums.

    Attributes:
        name: as its driver calls it, or the beginning of that.
        arch: such as 90 for ``sm_90``.
        bandwidth: bytes a second of its memory.
        rate: operations a second.
        multiprocessors: how many it has.
    """

    name: str
    arch: int
    bandwidth: float
    rate: float
    multiprocessors: int

    @property
    def key(self) -> str:
        """Its name as that of a file."""
        return key_of_name(self.name)


# The first of an architecture stands for it where nothing says which GPU it is.
GPUS = (
    Gpu("NVIDIA H200", 90, 4.8e12, 989e12, 132),
    Gpu("NVIDIA H100 80GB HBM3", 90, 3.35e12, 989e12, 132),
    Gpu("NVIDIA H100 PCIe", 90, 2.0e12, 756e12, 114),
    Gpu("NVIDIA A100-SXM4-80GB", 80, 2.039e12, 312e12, 108),
    Gpu("NVIDIA A100-SXM4-40GB", 80, 1.555e12, 312e12, 108),
    Gpu("NVIDIA GeForce RTX 3090", 86, 0.936e12, 71e12, 82),
    Gpu("NVIDIA A10", 86, 0.6e12, 125e12, 72),
    Gpu("NVIDIA GeForce RTX 4090", 89, 1.008e12, 165e12, 128),
    Gpu("NVIDIA L4", 89, 0.3e12, 121e12, 58),
    Gpu("NVIDIA L40S", 89, 0.864e12, 362e12, 142),
    Gpu("NVIDIA B200", 100, 8.0e12, 2250e12, 148),
    Gpu("NVIDIA GeForce RTX 5090", 120, 1.792e12, 210e12, 170),
)


def key_of_name(name: str) -> str:
    """A GPU's name as that of a file: ``nvidia_h200``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def gpu_of_arch(arch: int) -> Gpu | None:
    """The GPU that stands for an architecture; None if none is known."""
    return next((one for one in GPUS if one.arch == arch), None)


def gpu_of_name(name: str) -> Gpu | None:
    """The GPU that a driver calls so; None if its rates are not known."""
    fitting = [one for one in GPUS if name.startswith(one.name)]
    return max(fitting, key=lambda one: len(one.name), default=None)


@dataclass(frozen=True, slots=True)
class Work:
    """What a region moves and computes, over the sizes of a step.

    Attributes:
        nbytes: that cross its border.
        flops: operations of its nodes.
    """

    nbytes: Dim
    flops: Dim

    def seconds(self, gpu: Gpu, sizes: Mapping[str, int]) -> float:
        """The least time that it takes."""
        moving = evaluate(self.nbytes, sizes) / gpu.bandwidth
        computing = evaluate(self.flops, sizes) / gpu.rate
        return max(moving, computing)

    def bound(self, gpu: Gpu, sizes: Mapping[str, int]) -> str:
        """What it waits for: ``memory`` or ``arithmetic``."""
        moving = evaluate(self.nbytes, sizes) / gpu.bandwidth
        return "memory" if moving * gpu.rate >= evaluate(self.flops, sizes) else "arithmetic"


def work_of(graph: Graph, region: Region) -> Work:
    """What a region of ``graph`` moves and computes."""
    nodes = tuple(graph.nodes[place] for place in region.nodes)
    item = Item(region.name, nodes, region.inputs, region.outputs, region.scope)
    return Work(region_bytes(item), region_flops(item))
