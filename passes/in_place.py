"""Whether a region may compute a result in the memory of one of its operands.

before:  a region, an operand that nobody needs afterwards, and a result
after:   yes if the kernel reads each byte of the operand no later than it overwrites it

The result has the operand's type, so that element ``i`` of both is at the same place. What a kernel
of the region's family does in which order decides the rest:

- ``pointwise`` loads the operands' elements ``i``, computes, and stores the results' elements
  ``i``. So every node that depends on the operand has to be pointwise, of the operand's own shape:
  a node of another shape reads element ``i`` for other elements too (broadcasting), and a view
  reads other elements for ``i``.
- ``linear`` reads the rows of its product for many columns, at any time, but an epilogue's operand
  only at the element that it then stores. The same condition covers both, since a product is not
  pointwise.
- ``row`` goes over a row several times: reductions over the last dimension, then a last pass that
  stores. Besides pointwise nodes those reductions and what they give per row may depend on the
  operand.

With two results a kernel may store the first before it reads an operand for the second, so there
must be only one.

Other families (attention, heads, gather, experts, opaque) promise no order: never. A view of the
operand that the region reads besides would be another operand on the same memory; the caller
excludes that, as it does an operand that is an input of the graph, which the caller of the plan
owns.
"""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_pointwise
from graphopt.ir.types import TensorType
from graphopt.region import Region

from .typed import shape_of

FAMILIES = ("pointwise", "linear", "row")
_SUMMARIES = ("sum", "mean", "amax", "amin", "var")


def reads_where_it_writes(graph: Graph, region: Region, operand: Value, result: Value) -> bool:
    """Whether ``region`` may write ``result`` over ``operand``, as far as its own order goes."""
    type_ = operand.type
    if region.family not in FAMILIES or type_ != result.type or not isinstance(type_, TensorType):
        return False
    by_row = region.family == "row"
    if len(region.outputs) != 1 or (by_row and not type_.shape):
        return False
    shapes = {type_.shape, (*type_.shape[:-1], 1)} if by_row else {type_.shape}
    if any(shape_of(value) not in shapes for value in region.outputs):
        return False
    depends = {operand}
    for place in region.nodes:
        node = graph.nodes[place]
        if depends.isdisjoint(node.inputs):
            continue
        if not all(shape_of(value) in shapes for value in node.outputs):
            return False
        if not is_pointwise(node.op) and not (by_row and _is_over_rows(node, depends)):
            return False
        depends.update(node.outputs)
    return True


def _is_over_rows(node: Node, depends: set[Value]) -> bool:
    """Whether a node reduces its first input over the last dimension, and only that one depends."""
    if not depends.isdisjoint(node.inputs[1:]):
        return False
    last = len(shape_of(node.inputs[0])) - 1
    if node.op in _SUMMARIES:
        return node.attrs["dims"] == (last,) and node.attrs["keepdim"] is True
    if node.op in ("softmax", "log_softmax"):
        return node.attrs["dim"] == last
    return node.op == "rms_norm" or (node.op == "layer_norm" and node.attrs["axes"] == 1)
