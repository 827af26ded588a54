"""Fuse nodes into regions, one kernel each.

before:  a graph without constant work
after:   regions that cover every node but mere changes of shape exactly once, in running order

The most particular fusions come first, so that what they need is still free:
    heads      norms, rotation and scaling of a token's queries and keys, with the write to memory
    epilogue   pointwise work on a linear map's result: bias, activation, gated unit, residual
    prologue   work on the rows that a linear map reads: norm, choice of rows, a gate
    rows       whatever pointwise and row-wise work passes data on, and gathers before it
    siblings   work of the same shape on the same data

Each merge is decided on its own: legality first (``fusion_legal``), then profit (``fusion_cost``),
and both answers stand in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import NORMS, is_pointwise, keeps_state
from graphopt.ir.shape import product
from graphopt.ir.types import StateType
from graphopt.ledger import Verdict
from graphopt.region import Region, base_of, make_region, readers

from .fusion_cost import CostModel, worth
from .fusion_legal import (
    ANCHORS,
    ELEMENTWISE,
    family_of,
    joined_family,
    may_follow,
    may_join,
    may_precede,
    nothing_between,
)
from .groups import Group, Groups
from .manager import PassContext, place_of
from .typed import shape_of

# Names of the fusions, for ``--disable-pass``.
FUSIONS = ("fuse-heads", "fuse-epilogue", "fuse-prologue", "fuse-rows", "fuse-siblings")
# Operators that say nothing about what a region computes.
QUIET = frozenset({"reshape", "permute", "expand", "slice", "select", "split", "cast"})
# Siblings further apart than this would keep their results alive for long.
NEAR = 64


def fuse_regions(
    graph: Graph,
    model: CostModel,
    context: PassContext,
    disabled: frozenset[str] = frozenset(),
) -> tuple[Region, ...]:
    """The regions of ``graph`` for the target whose cost ``model`` is."""
    families = {node: found for node in graph.nodes if (found := family_of(graph, node))}
    fusion = _Fusion(Groups(graph, families), model, context)
    phases: tuple[Callable[[], None], ...] = (
        fusion.heads,
        fusion.epilogues,
        fusion.prologues,
        fusion.rows,
        fusion.siblings,
    )
    for name, phase in zip(FUSIONS, phases, strict=True):
        if name not in disabled:
            phase()
    groups = fusion.groups
    return tuple(
        make_region(
            graph,
            groups.with_aliases(group.nodes),
            family=group.family,
            name=name_of(groups.nodes(group)),
            scope=_scope(group),
        )
        for group in groups.running_order()
    )


def name_of(nodes: Iterable[Node]) -> str:
    """What nodes compute together: their operators in order, each run of one once."""
    ops = [node.op for node in nodes]
    loud = [op for op in ops if op not in QUIET] or ops
    return "+".join(op for place, op in enumerate(loud) if place == 0 or loud[place - 1] != op)


def _scope(group: Group) -> str:
    """The module of the node that the kernel is built around, if there is one."""
    loc = group.anchor.loc if group.anchor is not None else None
    return loc.module if loc is not None else ""


class _Fusion:
    """The groups so far, and how two of them become one."""

    def __init__(self, groups: Groups, model: CostModel, context: PassContext) -> None:
        self.groups = groups
        self.model = model
        self.context = context

    def heads(self) -> None:
        """Gather what makes the keys and values of each write, and the queries beside them."""
        graph = self.groups.graph
        for node in graph.nodes:
            if node.op not in ("kv_write", "latent_write"):
                continue
            ends = [value for value in node.inputs[1:-1] if not isinstance(value.type, StateType)]
            ends += [
                reader.inputs[0]
                for reader in readers(graph, node.output)
                if not keeps_state(reader) and reader.attrs.get("layer") == node.attrs["layer"]
            ]
            self._gather_heads(self.groups.of(node), ends)

    def epilogues(self) -> None:
        """Let each linear map do the pointwise work on its result, node after node."""
        for node in self.groups.graph.nodes:
            if ANCHORS.get(node.op) == "linear":
                group = self.groups.of(node)
                while (grown := self._with_epilogue(group)) is not None:
                    group = grown

    def prologues(self) -> None:
        """Let each linear map do the work on the rows it reads."""
        for node in self.groups.graph.nodes:
            if ANCHORS.get(node.op) != "linear":
                continue
            group, source = self.groups.of(node), node.inputs[0]
            while (maker := self.groups.maker(source)) is not None and maker is not group:
                if maker.family not in ELEMENTWISE:
                    break
                verdict = may_precede(self.groups, maker, group)
                merged = self._merge("fuse-prologue", maker, group, verdict, group.family, node)
                if merged is None:
                    break
                group, source = merged, self.groups.nodes(maker)[0].inputs[0]

    def rows(self) -> None:
        """Join elementwise groups with those that read them."""
        for node in self.groups.graph.nodes:
            group = self.groups.find(node)
            while group is not None and group.family in ELEMENTWISE:
                group = self._with_reader(group)

    def siblings(self) -> None:
        """Join elementwise groups that read the same data."""
        graph = self.groups.graph
        for value in graph.values():
            if value.is_weight or base_of(graph, value) is not value:
                continue
            found = dict.fromkeys(self.groups.of(node) for node in readers(graph, value))
            near = [group for group in found if group.family in ELEMENTWISE]
            for one, other in pairwise(near):
                first, second = (self.groups.of(self.groups.nodes(g)[0]) for g in (one, other))
                if first is second or abs(second.first - first.first) > NEAR:
                    continue
                verdict = may_join(self.groups, first, second)
                family = joined_family(first, second)
                self._merge("fuse-siblings", first, second, verdict, family, None)

    def _gather_heads(self, group: Group, ends: list[Value]) -> None:
        """Merge into ``group`` what makes ``ends``, as far as it is work on heads."""
        graph, anchor = self.groups.graph, group.anchor
        stack = [base_of(graph, value) for value in ends]
        while stack:
            value = stack.pop()
            maker = self.groups.maker(value)
            if maker is None or maker is group:
                continue
            node, *others = self.groups.nodes(maker)
            if others:  # the heads of another write, which diffllama's halves share
                continue
            outside = self.groups.outside_readers(maker, value)
            if not _is_on_heads(node) or not all(
                reader.op == "attention" or self.groups.of(reader) is group for reader in outside
            ):
                continue
            verdict = nothing_between(self.groups, maker, group)
            merged = self._merge("fuse-heads", maker, group, verdict, "heads", anchor)
            if merged is not None:
                group = merged
                stack.extend(base_of(graph, one) for one in _heads_read(node))

    def _with_epilogue(self, group: Group) -> Group | None:
        """``group`` with one more group that reads it, or None."""
        for value in [v for node in self.groups.nodes(group) for v in node.outputs]:
            for reader in self.groups.outside_readers(group, value):
                other = self.groups.of(reader)
                if other.family not in ("pointwise", "row"):
                    continue
                verdict = may_follow(self.groups, group, other)
                merged = self._merge(
                    "fuse-epilogue", group, other, verdict, group.family, group.anchor
                )
                if merged is not None:
                    return merged
        return None

    def _with_reader(self, group: Group) -> Group | None:
        """``group`` with one more elementwise group that reads it, or None."""
        for value in [v for node in self.groups.nodes(group) for v in node.outputs]:
            for reader in self.groups.outside_readers(group, value):
                other = self.groups.of(reader)
                if other.family not in ELEMENTWISE:
                    continue
                verdict = may_join(self.groups, group, other)
                family = joined_family(group, other)
                merged = self._merge("fuse-rows", group, other, verdict, family, None)
                if merged is not None:
                    return merged
        return None

    def _merge(
        self,
        rule: str,
        one: Group,
        other: Group,
        legal: Verdict,
        family: str,
        anchor: Node | None,
    ) -> Group | None:
        """One group of two if it is legal and worth it; the ledger hears of it either way."""
        verdict = worth(self.groups, one, other, self.model) if legal.accepted else legal
        where = place_of(self.groups.nodes(other)[-1])
        if not self.context.decide(rule, where, verdict):
            return None
        return self.groups.merge(one, other, family, anchor)


def _is_on_heads(node: Node) -> bool:
    """Whether each row of a node's result, a head's or a token's, depends on that token alone."""
    if node.op in NORMS:
        return node.attrs.get("axes", 1) == 1
    return node.op in ("rope", "concat") or is_pointwise(node.op)


def _heads_read(node: Node) -> list[Value]:
    """The operands that are heads themselves, not tables or weights for them."""
    if node.op == "rope" or node.op in NORMS:
        return [node.inputs[0]]
    return [
        value
        for value in node.inputs
        if not value.is_weight
        and (node.op == "concat" or product(shape_of(value)) == product(shape_of(node.output)))
    ]
