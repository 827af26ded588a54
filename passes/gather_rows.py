"""Compute only the rows that are asked for.

before:  %n = rms_norm(%h, @w);  %r = index_select(%n, %rows)
after:   %g = index_select(%h, %rows);  %r = rms_norm(%g, @w)

The choice of rows moves up through work that treats every row alike: norms over later dimensions,
and pointwise operators whose other operands do not depend on the row. What lies above it keeps all
rows only where somebody else reads them. What is made of weights alone is computed once, for all
rows, and stays above.
"""

from __future__ import annotations

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node
from graphopt.ir.ops import NORMS, is_pointwise
from graphopt.ir.types import TensorType
from graphopt.ledger import accept

from .constants import is_constant
from .manager import PassContext, PassResult, place_of
from .typed import shape_of


class GatherRows:
    """The pass."""

    name = "gather-rows"
    requires = frozenset({"norms raised"})
    ensures: frozenset[str] = frozenset()

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with choices of rows moved up."""
        rewriter = Rewriter(graph)
        modified = False
        for node in graph.nodes:
            above = self._above(graph, node) if _chooses_rows(node) else []
            if not above or not context.decide(
                self.name,
                place_of(node),
                accept(f"{', '.join(one.op for one in above)} for the asked rows only"),
            ):
                rewriter.copy(node)
                continue
            source = above[-1].inputs[0]
            now = rewriter.one("index_select", [source, node.inputs[1]], node.attrs, loc=node.loc)
            for one in reversed(above):
                now = rewriter.one(one.op, [now, *one.inputs[1:]], one.attrs, loc=one.loc)
            rewriter.replace(node.output, now)
            modified = True
        return PassResult(rewriter.finish() if modified else graph, modified)

    def _above(self, graph: Graph, node: Node) -> list[Node]:
        """The nodes that the choice can pass, the nearest first."""
        found: list[Node] = []
        reader, value = node, node.inputs[0]
        while graph.users[value] == (reader,) and value not in graph.outputs:
            maker = graph.producers.get(value)
            if maker is None or not _is_row_local(maker) or is_constant(graph, value):
                break
            found.append(maker)
            reader, value = maker, maker.inputs[0]
        return found


def _chooses_rows(node: Node) -> bool:
    return node.op == "index_select" and node.attrs["dim"] == 0


def _is_row_local(node: Node) -> bool:
    """Whether each row of the output depends on that row of the first input alone."""
    first = node.inputs[0].type if node.inputs else None
    if not isinstance(first, TensorType) or len(node.outputs) != 1:
        return False
    if node.op in NORMS:
        axes = node.attrs.get("axes", 1)
        return isinstance(axes, int) and len(first.shape) > axes
    if not is_pointwise(node.op) or node.output.type != first:
        return False
    return all(len(shape_of(value)) < len(first.shape) for value in node.inputs[1:])
