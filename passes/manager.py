"""Runs passes over a graph, one after the other, and says what each one did.

A pass takes a graph and gives a graph; it never changes the one it was given. In a pipeline it
stands after those that ensure what it requires. After it, the graph is verified, so a pass that
breaks the language's rules is named at once. Every single rewrite asks the context first, which is
how a run can stop after the n-th one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from graphopt.errors import CompileError, GraphoptError, UsageError, VerifyError
from graphopt.ir import ops
from graphopt.ir.graph import Graph, Node
from graphopt.ir.shape import evaluate
from graphopt.ir.verify import verify
from graphopt.ledger import Ledger, PassReport, Verdict, accept

from .constants import constant_nodes


class _EverySizeOne(Mapping[str, int]):
    """Any symbol is 1: a function's graph has others than a decoder's."""

    def __getitem__(self, name: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


# Where costs are compared, a step decodes the first token of one sequence.
AT_ONE_TOKEN = _EverySizeOne()


@dataclass(frozen=True, slots=True)
class PassResult:
    """A pass's graph, and whether it differs from the one the pass was given."""

    graph: Graph
    modified: bool


@dataclass(slots=True)
class PassContext:
    """What a pass may ask and tell while it runs.

    Attributes:
        ledger: takes decisions.
        fuel: rewrites that may still be applied; None for any number.
        applied: rewrites applied so far, by all passes that share the context.
        last: what the latest applied rewrite was, as ``rule at place``.
    """

    ledger: Ledger = field(default_factory=Ledger)
    fuel: int | None = None
    applied: int = 0
    last: str = ""

    def decide(self, rule: str, where: str, verdict: Verdict, *, quiet: bool = False) -> bool:
        """Whether to apply a rewrite, which is then counted.

        Args:
            rule: who wants to rewrite.
            where: at which place of the model.
            verdict: what the rule's check says.
            quiet: leave an acceptance out of the ledger; for housekeeping that explains itself.
        """
        if not verdict.accepted:
            self.ledger.record(rule, where, verdict)
            return False
        if self.fuel is not None and self.applied >= self.fuel:
            return False
        self.applied += 1
        self.last = f"{rule} at {where}"
        if not quiet:
            self.ledger.record(rule, where, verdict)
        return True

    def housekeep(self, rule: str, node: Node) -> bool:
        """Whether to apply a rewrite that explains itself; the ledger is not told."""
        return self.decide(rule, place_of(node), accept(), quiet=True)


def place_of(node: Node) -> str:
    """Where a node is, for the ledger: its first output and the module it comes from."""
    scope = node.loc.module if node.loc is not None else ""
    return f"{node.output} {scope}".strip()


class Pass(Protocol):
    """Rewrites a graph.

    Attributes:
        name: its handle in dumps, messages and ``--disable-pass``.
        requires: properties that make it find what it looks for, which earlier passes ensure. It
            never relies on them for being right, so a pass may be left out all the same.
        ensures: properties that hold for its result.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def requires(self) -> frozenset[str]: ...  # noqa: D102

    @property
    def ensures(self) -> frozenset[str]: ...  # noqa: D102

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The rewritten graph. It asks ``context.decide`` before each rewrite."""
        ...


# Called after a pass with its name, the graph before it and the graph after it.
Observe = Callable[[str, Graph, Graph], None]


def run_passes(
    graph: Graph,
    passes: Sequence[Pass],
    context: PassContext | None = None,
    *,
    disabled: frozenset[str] = frozenset(),
    observe: Observe | None = None,
) -> tuple[Graph, tuple[PassReport, ...]]:
    """Run ``passes`` in order.

    Args:
        graph: the graph to start from; it must be well formed.
        passes: what to run.
        context: ledger and fuel; a fresh one without limits if None.
        disabled: names of passes to leave out.
        observe: called after each pass, for dumps and for comparing numbers.

    Raises:
        UsageError: there is no pass of a disabled name.
        CompileError: a pass failed, or made a graph that is not well formed; the message names it.
    """
    context = context or PassContext()
    check_names(passes, disabled)
    reports: list[PassReport] = []
    meter = _Meter()
    for one in passes:
        if one.name in disabled:
            continue
        started, before = time.perf_counter(), context.applied
        result = _run_one(one, graph, context, reports)
        reports.append(
            PassReport(
                one.name,
                result.modified,
                context.applied - before,
                time.perf_counter() - started,
                len(graph.nodes),
                len(result.graph.nodes),
                meter.bytes(graph),
                meter.bytes(result.graph),
            )
        )
        graph, previous = result.graph, graph
        if observe is not None:
            observe(one.name, previous, graph)
    return graph, tuple(reports)


def check_pipeline(passes: Sequence[Pass]) -> None:
    """Demands that passes stand after those that ensure what they require.

    Raises:
        CompileError: the pipeline is out of order.
    """
    ensured: set[str] = set()
    for one in passes:
        if missing := one.requires - ensured:
            raise CompileError(
                f"pass {one.name} requires what no pass before it ensures",
                got=", ".join(sorted(missing)),
                next="this is a defect of graphopt: the pipeline is out of order",
            )
        ensured |= one.ensures


def check_names(passes: Sequence[Pass], disabled: frozenset[str]) -> None:
    """Demands that there are passes of these names.

    Raises:
        UsageError: there is none of some name.
    """
    names = [one.name for one in passes]
    if unknown := sorted(disabled - set(names)):
        raise UsageError("no such pass", got=", ".join(unknown), expected=", ".join(names))


class _Meter:
    """Counts the bytes that graphs move; nodes that they share are counted once."""

    def __init__(self) -> None:
        self._known: dict[Node, int] = {}

    def bytes(self, graph: Graph) -> int:
        """Bytes that the nodes read and write when each runs alone, decoding one token.

        What depends on weights alone runs when the artifact is written, and counts nothing.
        """
        made_before = set(constant_nodes(graph))
        running = [node for node in graph.nodes if node not in made_before]
        for node in running:
            if node not in self._known:
                self._known[node] = evaluate(ops.bytes_moved(node), AT_ONE_TOKEN)
        return sum(self._known[node] for node in running)


def _run_one(
    one: Pass, graph: Graph, context: PassContext, reports: Sequence[PassReport]
) -> PassResult:
    done = ", ".join(report.name for report in reports) or "none"
    try:
        result = one(graph, context)
        if result.graph is not graph:
            verify(result.graph)
    except VerifyError as error:
        raise CompileError(
            f"pass {one.name} broke the graph: {error.what}",
            where=error.where,
            got=error.got,
            expected=error.expected,
            next=f"this is a defect of graphopt; passes that ran before it: {done}; "
            f"--disable-pass {one.name} leaves it out",
        ) from error
    except GraphoptError:
        raise
    except Exception as error:
        raise CompileError(
            f"pass {one.name} failed",
            where=context.last,
            got=f"{type(error).__name__}: {error}",
            next=f"this is a defect of graphopt; passes that ran before it: {done}; "
            f"--disable-pass {one.name} leaves it out",
        ) from error
    return result
