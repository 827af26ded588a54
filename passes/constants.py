"""Which values are known before any step runs: weights, and what is made from them alone."""

from __future__ import annotations

from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.ops import is_aten, keeps_state
from graphopt.ir.shape import Expr
from graphopt.ir.types import TensorType


def constant_nodes(graph: Graph) -> tuple[Node, ...]:
    """The nodes that read weights and other constants only, in running order.

    A node with a size that changes from step to step is none, in its result or an attribute, and
    neither is one without inputs: making numbers is cheaper than reading them.
    """
    known: set[Value] = set(graph.weights)
    found = []
    for node in graph.nodes:
        if _may(node) and all(value in known for value in node.inputs):
            known.update(node.outputs)
            found.append(node)
    return tuple(found)


def constant_values(graph: Graph) -> frozenset[Value]:
    """Weights, and the outputs of constant nodes."""
    made = (value for node in constant_nodes(graph) for value in node.outputs)
    return frozenset((*graph.weights, *made))


def is_constant(graph: Graph, value: Value) -> bool:
    """Whether one value is a weight or made from weights alone; looks only at what makes it."""
    if value.is_weight:
        return True
    node = graph.producers.get(value)
    return node is not None and _may(node) and all(is_constant(graph, one) for one in node.inputs)


def constants_first(graph: Graph) -> Graph:
    """The same graph with the constant nodes before all others."""
    first = constant_nodes(graph)
    early = set(first)
    nodes = (*first, *(node for node in graph.nodes if node not in early))
    if nodes == graph.nodes:
        return graph
    return Graph(graph.name, graph.inputs, graph.weights, nodes, graph.outputs)


def _may(node: Node) -> bool:
    """Whether a node is constant if its inputs are."""
    return (
        bool(node.inputs)
        and not keeps_state(node)
        and not is_aten(node.op)
        and all(_is_fixed(value) for value in node.outputs)
        and not any(map(_changes, node.attrs.values()))
    )


def _is_fixed(value: Value) -> bool:
    return isinstance(value.type, TensorType) and all(isinstance(d, int) for d in value.type.shape)


def _changes(attr: Attr) -> bool:
    """Whether an attribute depends on the sizes of the step."""
    return isinstance(attr, Expr) or (isinstance(attr, tuple) and any(map(_changes, attr)))
