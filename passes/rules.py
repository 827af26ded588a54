"""Rules: a pattern, a side condition and a replacement; and the pass that applies them.

before:  a place where a rule's pattern holds and its check accepts
after:   what its rewrite makes, and an entry in the ledger

A refusal goes into the ledger with its reason. So does a near miss, a place where most of a pattern
matched and the rest did not, and a leftover, a node of a kind that the rules exist to explain and
that none of them covered: a rewrite that silently does not happen is a bug.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ledger import Verdict, accept, refuse

from .manager import PassContext, PassResult, place_of
from .match import Match, Miss, Pattern, Var, match, roots, size


class RewriteRule(ABC):
    """One rewrite. ``pattern``'s parameters are its variables.

    class DropDoubleNegation(RewriteRule):
        def pattern(self, x: Var) -> Pattern:
            return op.neg(op.neg(x))

        def rewrite(self, m: Match, new: Rewriter) -> Value:
            return m.x
    """

    @property
    def name(self) -> str:
        """The rule's name in the ledger: its class's, in words."""
        letters = (f"-{c.lower()}" if c.isupper() else c for c in type(self).__name__)
        return "".join(letters).strip("-")

    pattern: Callable[..., Pattern]  # a method; its parameters are the pattern's variables

    def check(self, m: Match) -> Verdict:
        """Whether the rewrite may happen, and if not, why and who is at fault."""
        return accept()

    @abstractmethod
    def rewrite(self, m: Match, new: Rewriter) -> Value | tuple[Value, ...]:
        """What stands for the root's outputs from now on; ``new`` makes nodes."""

    def near(self, needed: int) -> int:
        """From how many matched nodes on a miss is worth a line in the ledger."""
        return max(2, (needed + 1) // 2)


def pattern_of(rule: RewriteRule) -> Pattern:
    """The rule's pattern, its parameters made variables."""
    names = inspect.signature(rule.pattern).parameters
    return rule.pattern(*(Var(name) for name in names))


@dataclass(frozen=True, slots=True)
class _Ready:
    """A rule with what is derived from its pattern."""

    rule: RewriteRule
    pattern: Pattern
    near: int


class RulePass:
    """Applies rules to every node, the first that fits.

    Args:
        name: the pass's handle.
        rules: in the order in which they are tried at a node.
        leftovers: for an operator, what its nodes should have become part of; a node of it that
            no match covers is written into the ledger.
        requires: what earlier passes must ensure.
        ensures: what holds afterwards.
    """

    def __init__(
        self,
        name: str,
        rules: Sequence[RewriteRule],
        *,
        leftovers: Mapping[str, str] | None = None,
        requires: Iterable[str] = (),
        ensures: Iterable[str] = (),
    ) -> None:
        self.name = name
        self.requires = frozenset(requires)
        self.ensures = frozenset(ensures)
        self._leftovers = dict(leftovers or {})
        self._by_root: dict[str, list[_Ready]] = {}
        for rule in rules:
            pattern = pattern_of(rule)
            ready = _Ready(rule, pattern, rule.near(size(pattern)))
            for root in roots(pattern):
                self._by_root.setdefault(root, []).append(ready)

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with the rules applied wherever they fit."""
        rewriter = Rewriter(graph)
        covered: set[Node] = set()
        misses: list[tuple[_Ready, Node, Miss]] = []
        modified = False
        for node in graph.nodes:
            found = self._first(graph, node, context, misses)
            if found is None:
                rewriter.copy(node)
                continue
            rule, m = found
            made = rule.rewrite(m, rewriter)
            values = made if isinstance(made, tuple) else (made,)
            for old, new in zip(node.outputs, values, strict=True):
                rewriter.replace(old, new)
            covered.update(m.nodes)
            modified = True
        self._report(graph, context, covered, misses)
        return PassResult(rewriter.finish() if modified else graph, modified)

    def _first(
        self,
        graph: Graph,
        node: Node,
        context: PassContext,
        misses: list[tuple[_Ready, Node, Miss]],
    ) -> tuple[RewriteRule, Match] | None:
        """The first rule that fits at ``node`` and may be applied."""
        for ready in self._by_root.get(node.op, ()):
            m = match(ready.pattern, graph, node)
            if isinstance(m, Miss):
                if m.matched >= ready.near:
                    misses.append((ready, node, m))
            elif context.decide(ready.rule.name, place_of(node), ready.rule.check(m)):
                return ready.rule, m
        return None

    def _report(
        self,
        graph: Graph,
        context: PassContext,
        covered: set[Node],
        misses: Sequence[tuple[_Ready, Node, Miss]],
    ) -> None:
        """Write down near misses and leftovers that no match explains."""
        for ready, node, miss in misses:
            if node not in covered:
                verdict = refuse(f"nearly: {miss.reason}", *miss.culprits)
                context.ledger.record(ready.rule.name, place_of(node), verdict)
        for node in graph.nodes:
            if node.op in self._leftovers and node not in covered:
                verdict = refuse(f"{node.op} is {self._leftovers[node.op]}", *node.outputs)
                context.ledger.record(self.name, place_of(node), verdict)
