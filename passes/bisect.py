"""Finds the first pass, then the first single rewrite, that breaks a graph.

before:  a graph, the passes, and something wrong with what they make of it
after:   the rewrite's number and place, the graph before it and the graph after it

Both searches halve. The first goes over the graphs after each pass, the second over how many
rewrites are allowed (``--pass-fuel``): the rewrite to blame is the last one that had to be allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.errors import GraphoptError
from graphopt.ir.graph import Graph

from .equivalence import Comparer, Comparison
from .manager import Pass, PassContext, run_passes


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a graph that passes made, or with the making.

    Attributes:
        kind: ``disagrees`` or ``fails``.
        what: the same in a sentence.
        comparison: the numbers that disagree; None if a pass failed.
    """

    kind: str
    what: str
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Culprit:
    """The first rewrite that breaks the graph.

    Attributes:
        pass_name: the pass.
        number: which rewrite of the whole pipeline it is, from 1; 0 if the pass breaks the graph
            without asking for any rewrite.
        rewrite: its rule and place.
        fault: how it shows.
        before: the graph before it.
        after: the graph after it; None if the pass failed.
        given: the graph that the pass was given.
    """

    pass_name: str
    number: int
    rewrite: str
    fault: Fault
    before: Graph
    after: Graph | None
    given: Graph

    @property
    def place(self) -> str:
        """Which rewrite it is, in words."""
        if self.number == 0:
            return f"pass {self.pass_name}, before its first rewrite"
        return f"pass {self.pass_name}, rewrite {self.number}: {self.rewrite}"


@dataclass(frozen=True, slots=True)
class _Run:
    """What some passes made: a graph, or an error."""

    graph: Graph | None
    context: PassContext
    fault: Fault | None


class Bisection:
    """The search in one graph.

    Args:
        graph: what the passes are given.
        pipeline: the passes.
        comparer: what compares the graph with what became of it.
        disabled: names of passes to leave out.
        fuel: most rewrites that are applied; None for any number.
    """

    def __init__(
        self,
        graph: Graph,
        pipeline: Sequence[Pass],
        comparer: Comparer,
        *,
        disabled: frozenset[str] = frozenset(),
        fuel: int | None = None,
    ) -> None:
        self._graph = graph
        self._pipeline = [one for one in pipeline if one.name not in disabled]
        self._comparer = comparer
        self._fuel = fuel

    def find(self) -> Culprit | None:
        """The culprit, or None if all passes run and the last graph agrees with the first.

        Raises:
            IRError: the graph itself does not run.
        """
        self._comparer.compare(self._graph, self._graph)
        graphs, counts, failed = self._each()
        if failed is None and self._fault_of(graphs[-1]) is None:
            return None
        # graphs[0] is good; the last one is not, or there is none because a pass failed.
        last = len(graphs) - (failed is None)
        found = _first(last, lambda n: n >= len(graphs) or self._fault_of(graphs[n]) is not None)
        applied = failed.applied if failed is not None and found == len(graphs) else counts[found]
        return self._rewrite(found, graphs[found - 1], counts[found - 1], applied)

    def _each(self) -> tuple[list[Graph], list[int], PassContext | None]:
        """The graph and the rewrites applied after 0, 1, 2, ... passes, and where it failed."""
        graphs, counts, context = [self._graph], [0], PassContext(fuel=self._fuel)

        def keep(name: str, before: Graph, after: Graph) -> None:
            graphs.append(after)
            counts.append(context.applied)

        try:
            run_passes(self._graph, self._pipeline, context, observe=keep)
        except GraphoptError:
            return graphs, counts, context
        return graphs, counts, None

    def _rewrite(self, passes: int, given: Graph, low: int, high: int) -> Culprit:
        """The culprit in the last of the first ``passes`` passes, whose rewrites are known."""
        runs: dict[int, _Run] = {}

        def bad(extra: int) -> bool:
            runs[extra] = self._with_fuel(passes, low + extra)
            return runs[extra].fault is not None

        extra = 0 if bad(0) else _first(high - low, bad)
        if extra not in runs:  # known to be bad, and not run yet
            bad(extra)
        run = runs[extra]
        good = runs[extra - 1].graph if extra else given
        return Culprit(
            self._pipeline[passes - 1].name,
            low + extra if extra else 0,
            run.context.last if extra else "",
            run.fault or Fault("fails", "the pass does not do the same twice"),
            good or given,
            run.graph,
            given,
        )

    def _with_fuel(self, passes: int, fuel: int) -> _Run:
        context = PassContext(fuel=fuel)
        try:
            graph, _ = run_passes(self._graph, self._pipeline[:passes], context)
        except GraphoptError as error:
            return _Run(None, context, fault_of(error))
        return _Run(graph, context, self._fault_of(graph))

    def _fault_of(self, graph: Graph) -> Fault | None:
        return compared(self._comparer, self._graph, graph)


def fault_of(error: GraphoptError) -> Fault:
    """What is wrong when a pass fails."""
    return Fault("fails", f"{error.what}{f' ({error.got})' if error.got else ''}")


def compared(comparer: Comparer, before: Graph, after: Graph) -> Fault | None:
    """What is wrong with ``after``, which should compute the same as ``before``."""
    if after is before:
        return None
    try:
        found = comparer.disagreement(before, after)
    except GraphoptError as error:  # the interpreter cannot run what the passes made
        return fault_of(error)
    return Fault("disagrees", str(found), found) if found is not None else None


def _first(last: int, bad: Callable[[int], bool]) -> int:
    """The least number from 1 on that is bad where all after it are; ``last`` is, 0 is not."""
    good = 0
    while last - good > 1:
        middle = (good + last) // 2
        if bad(middle):
            last = middle
        else:
            good = middle
    return last
