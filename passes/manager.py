"""Runs passes over a graph, one after the other, and says what each one did.

A pass takes a graph and gives a graph; it never changes the one it was given. After each pass the
graph is verified, so a pass that breaks the language's rules is named at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphopt.errors import CompileError, VerifyError
from graphopt.ir.graph import Graph
from graphopt.ir.verify import verify
from graphopt.ledger import Ledger


@dataclass(frozen=True, slots=True)
class PassResult:
    """A pass's graph, and whether it differs from the one the pass was given."""

    graph: Graph
    modified: bool


class Pass(Protocol):
    """Rewrites a graph. ``name`` is its handle in dumps and messages."""

    name: str

    def __call__(self, graph: Graph, ledger: Ledger) -> PassResult:
        """The rewritten graph. Decisions go into ``ledger``."""
        ...


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass did: its time and the change in the number of nodes."""

    name: str
    modified: bool
    seconds: float
    nodes_before: int
    nodes_after: int


def run_passes(
    graph: Graph,
    passes: Sequence[Pass],
    ledger: Ledger,
    observe: Callable[[str, Graph], None] | None = None,
) -> tuple[Graph, tuple[PassReport, ...]]:
    """Run ``passes`` in order.

    Args:
        graph: the graph to start from; it must be well formed.
        passes: what to run.
        ledger: takes the passes' decisions.
        observe: called with each pass's name and result, for dumps.

    Raises:
        CompileError: a pass made a graph that is not well formed; the message names it.
    """
    reports: list[PassReport] = []
    for rewrite in passes:
        started = time.perf_counter()
        result = rewrite(graph, ledger)
        try:
            verify(result.graph)
        except VerifyError as error:
            done = ", ".join(report.name for report in reports) or "none"
            raise CompileError(
                f"pass {rewrite.name} broke the graph: {error.what}",
                where=error.where,
                got=error.got,
                expected=error.expected,
                next=f"this is a defect of graphopt; passes that ran before it: {done}",
            ) from error
        reports.append(
            PassReport(
                rewrite.name,
                result.modified,
                time.perf_counter() - started,
                len(graph.nodes),
                len(result.graph.nodes),
            )
        )
        graph = result.graph
        if observe is not None:
            observe(rewrite.name, graph)
    return graph, tuple(reports)
