"""Write numbers that are known when compiling into the nodes that use them.

before:  %y = mul(%x, @model.embed_tokens.embed_scale)       (a weight without dimensions)
after:   %y = mul(%x) {scalar = 8.0}

Also behind casts. The number is the weight's value, rounded as the weight's and each cast's element
type rounds it, and operators with a scalar compute what they compute with a tensor of one element:
no bit changes. ``pow`` is left alone, whose special cases for known exponents round otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphopt.ir.builder import Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType

from .manager import PassContext, PassResult

INLINED = frozenset(
    {
        "add", "sub", "mul", "div", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge",
    }
)  # fmt: skip
_COMPUTED = frozenset(DType) - {DType.BOOL, DType.F8E4M3, DType.F8E5M2}


class InlineScalars:
    """The pass.

    Args:
        values: the values of weights without dimensions, by name.
    """

    name = "inline-scalars"
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    def __init__(self, values: Mapping[str, float | int]) -> None:
        self._values = dict(values)

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with the numbers written in."""
        known = self._known(graph)
        rewriter = Rewriter(graph)
        modified = False
        for node in graph.nodes:
            place = _place(node, known)
            if place is None or not context.housekeep(self.name, node):
                rewriter.copy(node)
                continue
            attrs = {"scalar": known[node.inputs[place]], "reverse": place == 0}
            new = rewriter.one(node.op, [node.inputs[1 - place]], attrs, loc=node.loc)
            rewriter.replace(node.output, new)
            modified = True
        return PassResult(rewriter.finish() if modified else graph, modified)

    def _known(self, graph: Graph) -> dict[Value, float | int]:
        """The values that are known: weights, and what casts make of them."""
        known: dict[Value, float | int] = {}
        for weight in graph.weights:
            if weight.name in self._values:
                _learn(known, weight, self._values[weight.name])
        for node in graph.nodes:
            if node.op == "cast" and node.inputs[0] in known:
                _learn(known, node.output, known[node.inputs[0]])
        return known


def _learn(known: dict[Value, float | int], value: Value, number: float | int) -> None:
    """Add a value of no dimensions, if its element type is one that numbers are rounded to."""
    if isinstance(value.type, TensorType) and not value.type.shape:
        rounded = _rounded(number, value.type.dtype)
        if rounded is not None:
            known[value] = rounded


def _rounded(number: float | int, dtype: DType) -> float | int | None:
    """The number as an element of ``dtype``, to nearest even; None for types not computed with."""
    if dtype not in _COMPUTED:
        return None
    with np.errstate(over="ignore"):  # a number too large for its type is infinite
        kept = np.array(number).astype("float32" if dtype is DType.BF16 else dtype.torch_name)
    if dtype is DType.BF16 and np.isfinite(kept):
        bits = int(kept.view(np.uint32))
        halfway = 0x7FFF + (bits >> 16 & 1)
        kept = np.array((bits + halfway) & 0xFFFF0000, np.uint32).view(np.float32)
    rounded: float | int = kept.item()
    return rounded


def _place(node: Node, known: Mapping[Value, float | int]) -> int | None:
    """Which of a node's two operands is known, if one is and the other is not."""
    if node.op not in INLINED or len(node.inputs) != 2:
        return None
    found = [place for place, value in enumerate(node.inputs) if value in known]
    return found[0] if len(found) == 1 else None
