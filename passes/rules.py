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
    roots: frozenset[str]
    near: int


class RulePass:
    """Applies rules wherever they fit, the first rule before the second.

    A later rule leaves alone what an earlier one explains: a place whose root lies inside of an
    earlier match, and nowhere else is used, is gone once that match is rewritten. So a rule for a
    whole comes before the rules for its parts.

    Args:
        name: the pass's handle.
        rules: the one to try first comes first.
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
        patterns = [(rule, pattern_of(rule)) for rule in rules]
        self._rules = tuple(
            _Ready(rule, pattern, roots(pattern), rule.near(size(pattern)))
            for rule, pattern in patterns
        )

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with the rules applied wherever they fit."""
        found = self._find(graph, context)
        if not found:
            return PassResult(graph, False)
        rewriter = Rewriter(graph)
        for node in graph.nodes:
            if node not in found:
                rewriter.copy(node)
                continue
            rule, m = found[node]
            made = rule.rewrite(m, rewriter)
            values = made if isinstance(made, tuple) else (made,)
            for old, new in zip(node.outputs, values, strict=True):
                rewriter.replace(old, new)
        return PassResult(rewriter.finish(), True)

    def _find(self, graph: Graph, context: PassContext) -> dict[Node, tuple[RewriteRule, Match]]:
        """The matches that may be rewritten, by their roots."""
        found: dict[Node, tuple[RewriteRule, Match]] = {}
        covered: set[Node] = set()
        needed: set[Value] = set(graph.outputs)
        misses: list[tuple[_Ready, Node, Miss]] = []
        for ready in self._rules:
            for node in graph.nodes:
                if node.op not in ready.roots or node in found:
                    continue
                if node in covered and _is_gone(graph, node, covered, needed):
                    continue
                m = match(ready.pattern, graph, node)
                if isinstance(m, Miss):
                    if m.matched >= ready.near:
                        misses.append((ready, node, m))
                elif context.decide(ready.rule.name, place_of(node), ready.rule.check(m)):
                    found[node] = (ready.rule, m)
                    covered.update(m.nodes)
                    needed.update(m.values.values())
        self._report(graph, context, covered, misses)
        return found

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


def _is_gone(graph: Graph, node: Node, covered: set[Node], needed: set[Value]) -> bool:
    """Whether a node is dead once the matches that cover it are rewritten."""
    return not any(
        value in needed or any(user not in covered for user in graph.users.get(value, ()))
        for value in node.outputs
    )
