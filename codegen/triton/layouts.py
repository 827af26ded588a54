"""Which weights in few bits lie in chunks, and which regions would read them otherwise.

before:  a graph, and its regions of products that have a kernel
after:   packings of weights and of their scales, by name; a refusal for what reads no chunks

A weight has one copy. It lies in chunks if products read it, all in the same parts, and nothing
else does but an embedding, which finds a row in chunks too: so a tied table is there once. What
PyTorch computes reads a copy of its own that is unpacked as the artifact is opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graphopt.gpu_packing import GpuPacking
from graphopt.ir.graph import Graph, Value
from graphopt.ledger import Verdict, refuse
from graphopt.region import Region

from ..rows.parts import anchor_of
from .quant_linear import packing_of

PRODUCT = "quantized_linear"
# What reads chunks.
READERS = (PRODUCT, "quantized_embed")


def packings_of(graph: Graph, products: Iterable[Region]) -> dict[str, GpuPacking]:
    """How weights and their scales are packed, by name.

    Args:
        graph: what the regions are of.
        products: linear regions that have a kernel.
    """
    wanted: dict[Value, set[tuple[Value, GpuPacking]]] = {}
    for region in products:
        anchor = anchor_of(graph, region)
        if anchor.op == PRODUCT:
            weight, scales = anchor.inputs[1:3]
            wanted.setdefault(weight, set()).add((scales, packing_of(graph, region)))
    found: dict[str, GpuPacking] = {}
    for weight, ways in wanted.items():
        if len(ways) == 1:
            ((scales, packing),) = ways
            if scales.name not in found and all(_reads_chunks(graph, v) for v in (weight, scales)):
                found |= {weight.name: packing, scales.name: packing.scales}
    return found


def misread(graph: Graph, region: Region, packings: Mapping[str, GpuPacking]) -> Verdict | None:
    """Why a region's kernel would read a weight otherwise than it lies; None if it would not.

    Args:
        graph: what the region is of.
        region: one that has a kernel, of any family but those of rows, which see the packings.
        packings: of the weights that lie in chunks.
    """
    chunks: tuple[Value, ...] = ()
    if region.family == "linear":
        anchor = anchor_of(graph, region)
        if anchor.op == PRODUCT:
            chunks = anchor.inputs[1:3]
    for value in region.inputs:
        if value.is_weight and (value in chunks) != (value.name in packings):
            if value in chunks:
                return refuse("something else reads its weight, and not in the same parts", value)
            return refuse("it reads a weight row after row that products read in chunks", value)
    return None


def _reads_chunks(graph: Graph, weight: Value) -> bool:
    """Whether everything that reads ``weight`` can read it in chunks."""
    return all(
        node.op in READERS and node.inputs.count(weight) == 1
        for node in graph.users.get(weight, ())
    )
