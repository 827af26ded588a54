"""Remove nodes that give back what they were given, and join layout moves that follow each other.

before:  %a = reshape(%x) {shape = [1, T, 64]};  %b = reshape(%a) {shape = [T, 64]}
after:   nothing, if %x is [T, 64] already; otherwise one reshape

Covers reshape, expand, permute, slice and cast. Values do not change in any bit.
"""

from __future__ import annotations

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType
from graphopt.ledger import Ledger

from .manager import PassResult

# Give back their input where the type does not change. A permute of equal sizes moves elements
# without changing the type, so it is looked at on its own.
SAME_TYPE_IS_IDENTITY = frozenset({"reshape", "expand", "slice", "cast"})


class RemoveIdentities:
    """The pass."""

    name = "remove-identities"

    def __call__(self, graph: Graph, ledger: Ledger) -> PassResult:
        """The graph without identities."""
        rewriter = Rewriter(graph)
        made: dict[Value, Node] = {}
        modified = False
        for node in graph.nodes:
            if _is_identity(node):
                rewriter.replace(node.output, node.inputs[0])
                modified = True
            elif (joined := _joined(rewriter, node, made)) is not None:
                rewriter.replace(node.output, joined)
                modified = True
            else:
                rewriter.copy(node)
                for value in node.outputs:
                    made[rewriter.value(value)] = node
        if not modified:
            return PassResult(graph, False)
        return PassResult(rewriter.finish(), True)


def _is_identity(node: Node) -> bool:
    if node.op in SAME_TYPE_IS_IDENTITY:
        return node.inputs[0].type == node.output.type
    return node.op == "permute" and node.attrs["dims"] == tuple(range(_rank(node)))


def _joined(rewriter: Rewriter, node: Node, made: dict[Value, Node]) -> Value | None:
    """One node, or none, in place of ``node`` and the same operator before it."""
    if node.op not in ("reshape", "permute"):
        return None
    before = made.get(rewriter.value(node.inputs[0]))
    if before is None or before.op != node.op:
        return None
    source = rewriter.value(before.inputs[0])
    if node.op == "permute":
        first, second = before.attrs["dims"], node.attrs["dims"]
        dims = tuple(_at(first, _index(dim)) for dim in _items(second))
        if dims == tuple(range(_rank(node))):
            return source
        return rewriter.one("permute", [source], {"dims": dims}, loc=node.loc)
    if source.type == node.output.type:
        return source
    return rewriter.one("reshape", [source], node.attrs, loc=node.loc)


def _rank(node: Node) -> int:
    return len(node.output.type.shape) if isinstance(node.output.type, TensorType) else 0


def _items(attr: object) -> tuple[object, ...]:
    return attr if isinstance(attr, tuple) else ()


def _index(attr: object) -> int:
    return attr if isinstance(attr, int) else 0


def _at(attr: object, index: int) -> int:
    return _index(_items(attr)[index])
