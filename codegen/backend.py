"""What a backend is: it says which regions it can compute, and makes kernels for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from graphopt.errors import CompileError
from graphopt.ir.graph import Graph
from graphopt.ledger import Ledger, Verdict
from graphopt.region import Region


class Backend(Protocol):
    """Turns regions into kernels for one kind of target."""

    name: str

    def claims(self, graph: Graph, region: Region) -> Verdict:
        """Whether this backend can compute ``region``, and if not, why."""
        ...

    def emit(self, graph: Graph, region: Region) -> str:
        """Make the kernel; the answer is its name in the plan."""
        ...


def assign(
    graph: Graph, regions: Sequence[Region], backends: Sequence[Backend], ledger: Ledger
) -> tuple[tuple[str, str], ...]:
    """Backend and kernel name for each region: the first backend that claims it makes its kernel.

    Every answer goes into the ledger, refusals too.

    Raises:
        CompileError: no backend claims a region.
    """
    kernels = []
    for region in regions:
        where = f"{graph.nodes[region.nodes[0]].output} {region.scope}".strip()
        for backend in backends:
            verdict = backend.claims(graph, region)
            ledger.record(f"backend:{backend.name}", where, verdict)
            if verdict.accepted:
                kernels.append((backend.name, backend.emit(graph, region)))
                break
        else:
            raise CompileError(
                "no backend can compute a region",
                where=where,
                got=graph.nodes[region.nodes[0]].op,
                expected=", ".join(backend.name for backend in backends),
            )
    return tuple(kernels)
