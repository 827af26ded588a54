"""Form regions: which nodes are computed by one kernel.

before:  a graph
after:   regions that cover each node exactly once, in running order

Every node is a region of its own, since each runs through PyTorch on its own.
"""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.region import Region, make_region


def form_regions(graph: Graph) -> tuple[Region, ...]:
    """The regions of ``graph``."""
    return tuple(make_region(graph, [position]) for position in range(len(graph.nodes)))
