"""Remove nodes that give back what they were given, and join layout moves that follow each other.

before:  %a = reshape(%x) {shape = [1, T, 64]};  %b = reshape(%a) {shape = [T, 64]}
after:   nothing, if %x is [T, 64] already; otherwise one reshape

Covers reshape, expand, permute, slice and cast. Values do not change in any bit.
"""

from __future__ import annotations

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops_spec import ints_of

from .layout import composed, is_identity
from .manager import PassContext, PassResult

# Give back their input where the type does not change. A permute of equal sizes moves elements
# without changing the type, so it is looked at on its own.
SAME_TYPE_IS_IDENTITY = frozenset({"reshape", "expand", "slice", "cast"})
# Two of a kind in a row are one.
JOINABLE = frozenset({"reshape", "permute"})


class RemoveIdentities:
    """The pass.

    Args:
        name: its handle, where a pipeline has it more than once.
    """

    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    def __init__(self, name: str = "remove-identities") -> None:
        self.name = name

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph without identities."""
        rewriter = Rewriter(graph)
        moves: dict[Value, Node] = {}
        modified = False
        for node in graph.nodes:
            if _is_identity(node) and context.housekeep(self.name, node):
                rewriter.replace(node.output, node.inputs[0])
                modified = True
                continue
            before = moves.get(rewriter.value(node.inputs[0])) if node.op in JOINABLE else None
            joins = before is not None and before.op == node.op
            if joins and before is not None and context.housekeep(self.name, node):
                rewriter.replace(node.output, _joined(rewriter, before, node))
                modified = True
            else:
                rewriter.copy(node)
            if node.op in JOINABLE:
                new = rewriter.value(node.output)
                maker = rewriter.maker(new)
                if maker is not None:
                    moves[new] = maker
        return PassResult(rewriter.finish() if modified else graph, modified)


def _is_identity(node: Node) -> bool:
    if node.op in SAME_TYPE_IS_IDENTITY:
        return node.inputs[0].type == node.output.type
    return node.op == "permute" and is_identity(ints_of(node.attrs, "dims"))


def _joined(rewriter: Rewriter, before: Node, node: Node) -> Value:
    """``node`` after ``before``, a node of the new graph, as one node or none."""
    source = before.inputs[0]
    if node.op == "reshape":
        if source.type == node.output.type:
            return source
        return rewriter.one("reshape", [source], node.attrs, loc=node.loc)
    dims = composed(ints_of(before.attrs, "dims"), ints_of(node.attrs, "dims"))
    if is_identity(dims):
        return source
    return rewriter.one("permute", [source], {"dims": dims}, loc=node.loc)
