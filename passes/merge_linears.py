"""Merge linear maps of the same input into one with packed weights.

before:  %q = linear(%x, @wq);  %k = linear(%x, @wk);  %v = linear(%x, @wv)
after:   %w = concat(@wq, @wk, @wv);  %y = linear(%x, %w);  %q, %k, %v = split(%y)

The input is read once instead of once for each, and one kernel fills the machine where three small
ones did not. Every output element is the same dot product as before, so values do not change.
Only maps of one block are merged (queries, keys and values; gate and up), so that what follows a
block's map can still become its epilogue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node, SourceLocation, Value
from graphopt.ir.shape import evaluate
from graphopt.ir.types import TensorType, nbytes
from graphopt.ledger import Verdict, accept, refuse

from .constants import constant_values, constants_first
from .hoist import why_not_folded
from .manager import AT_ONE_TOKEN, PassContext, PassResult, place_of


class MergeLinears:
    """The pass."""

    name = "merge-linears"
    requires = frozenset({"linear maps raised", "biases folded"})
    ensures: frozenset[str] = frozenset()

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with sibling linear maps merged."""
        ordered = constants_first(graph)
        constants = constant_values(ordered)
        merges: dict[Node, list[Node]] = {}
        for group in _siblings(ordered):
            if context.decide(self.name, _where(group), _check(ordered, group, constants)):
                merges[group[0]] = group
        if not merges:
            return PassResult(graph, False)
        rewriter = Rewriter(ordered)
        done: set[Node] = set()
        for node in ordered.nodes:
            if node in merges:
                _merge(rewriter, merges[node])
                done.update(merges[node])
            elif node not in done:
                rewriter.copy(node)
        return PassResult(rewriter.finish(), True)


def block_of(node: Node) -> str:
    """The module that holds a node's own: ``model.layers.0.mlp`` for its ``gate_proj``."""
    module = node.loc.module if node.loc is not None else ""
    return module.rpartition(".")[0]


def _siblings(graph: Graph) -> list[list[Node]]:
    """Linear maps of one block that read the same value, two or more, in running order."""
    groups: dict[tuple[Value, str], list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "linear":
            groups[node.inputs[0], block_of(node)].append(node)
    return [group for group in groups.values() if len(group) > 1]


def _where(group: Sequence[Node]) -> str:
    names = "+".join(node.loc.module.rpartition(".")[2] if node.loc else "" for node in group)
    return f"{place_of(group[0])} {names}".strip()


def _check(graph: Graph, group: Sequence[Node], constants: frozenset[Value]) -> Verdict:
    if group[0].inputs[0] in constants:
        return refuse("their input is a constant: they are computed once", group[0].inputs[0])
    for node in group:
        if not all(value in constants for value in node.inputs[1:]):
            return refuse("a weight is computed in the step", *node.inputs[1:])
        weight = node.inputs[1]
        if any(user is not node for user in graph.users[weight]) or weight in graph.outputs:
            return refuse("a weight is used elsewhere too, and packing would copy it", weight)
    if len({len(node.inputs) for node in group}) > 1:
        return refuse("some have a bias and some have none", *(node.output for node in group))
    if len({node.inputs[1] for node in group}) < len(group):
        return refuse("the same weight occurs twice", group[0].inputs[1])
    for place in range(1, len(group[0].inputs)):
        parts = [node.inputs[place] for node in group]
        if reason := why_not_folded(graph, parts, group):
            return refuse(f"packed in every step: {reason}", *parts)
    read = evaluate(nbytes(group[0].inputs[0].type), AT_ONE_TOKEN)
    return accept(
        f"{len(group)} linear maps of the same input become one",
        saves_bytes=(len(group) - 1) * read,
    )


def _merge(rewriter: Rewriter, group: Sequence[Node]) -> None:
    loc = _location(group)
    operands = [
        rewriter.one("concat", [node.inputs[place] for node in group], {"dim": 0}, loc=loc)
        for place in range(1, len(group[0].inputs))
    ]
    merged = rewriter.one("linear", [group[0].inputs[0], *operands], loc=loc)
    sizes = tuple(_columns(node) for node in group)
    parts = rewriter.node("split", [merged], {"sizes": sizes, "dim": -1}, loc=loc)
    for node, part in zip(group, parts, strict=True):
        rewriter.replace(node.output, part)


def _location(group: Sequence[Node]) -> SourceLocation | None:
    """Where the first of the group is, in a module that has all their names."""
    first = group[0].loc
    if first is None or not first.module:
        return first
    names = dict.fromkeys(node.loc.module.rpartition(".")[2] for node in group if node.loc)
    module = ".".join(part for part in (block_of(group[0]), "-".join(names)) if part)
    return SourceLocation(first.file, first.line, module)


def _columns(node: Node) -> int:
    type_ = node.inputs[1].type
    size = type_.shape[0] if isinstance(type_, TensorType) else 0
    return size if isinstance(size, int) else 0
