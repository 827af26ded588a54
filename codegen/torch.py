"""The backend of last resort: each node runs through PyTorch.

It claims everything, so it is asked last; the ledger says for each region why it was needed.
"""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.ledger import Verdict, accept
from graphopt.region import Region


class TorchBackend:
    """Runs a region node by node through the operators' reference implementations."""

    name = "torch"

    def claims(self, graph: Graph, region: Region) -> Verdict:
        """Always yes; the reason names the operators that no other backend computes."""
        ops = dict.fromkeys(graph.nodes[position].op for position in region.nodes)
        return accept(f"no generated kernel for {', '.join(ops)}: it runs through PyTorch")

    def emit(self, graph: Graph, region: Region) -> str:
        """The operators' names; there is no source to render."""
        return "+".join(graph.nodes[position].op for position in region.nodes)
