"""Compute once what is computed several times.

before:  %a = cos(%angles);  ...  %b = cos(%angles)
after:   %a = cos(%angles);  ...  %a in place of %b

Two nodes are the same if operator, inputs and attributes are; the first one stays. Operators that
write state are never shared. Values do not change in any bit.
"""

from __future__ import annotations

from collections.abc import Hashable

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_aten, keeps_state

from .manager import PassContext, PassResult


class ShareCommon:
    """The pass.

    Args:
        name: its handle, where a pipeline has it more than once.
    """

    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    def __init__(self, name: str = "share-common") -> None:
        self.name = name

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with each computation once."""
        rewriter = Rewriter(graph)
        first: dict[Hashable, tuple[Value, ...]] = {}
        modified = False
        for node in graph.nodes:
            if keeps_state(node) or is_aten(node.op):
                rewriter.copy(node)
                continue
            key = _key(rewriter, node)
            if key in first and context.housekeep(self.name, node):
                for old, new in zip(node.outputs, first[key], strict=True):
                    rewriter.replace(old, new)
                modified = True
            else:
                first[key] = rewriter.copy(node)
        return PassResult(rewriter.finish() if modified else graph, modified)


def _key(rewriter: Rewriter, node: Node) -> Hashable:
    inputs = tuple(id(rewriter.value(value)) for value in node.inputs)
    attrs = tuple(sorted((name, _exact(attr)) for name, attr in node.attrs.items()))
    return node.op, inputs, attrs


def _exact(attr: object) -> str:
    """Tells apart what compares equal: 1, 1.0 and True, 0.0 and -0.0."""
    if isinstance(attr, tuple):
        return f"({', '.join(map(_exact, attr))})"
    return f"{type(attr).__name__}:{attr!r}"
