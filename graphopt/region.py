"""Regions: nodes of a graph that become one kernel, and the values that cross their border."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_view
from graphopt.ir.types import StateType

# The kernel families that code generators have templates for, and what each computes.
#   view       nothing: its outputs are its inputs' data under other shapes
#   pointwise  each element of the outputs from elements of the inputs
#   row        reductions over the last dimension, with pointwise work around them
#   linear     one matrix product with a weight, a prologue on its rows and an epilogue
#   heads      work on one token's queries, keys and values, and the write of the latter; its norms
#              may be of each head or of all heads together
#   attention  one attention over paged keys and values
#   gather     rows of a table or of a tensor, with row or pointwise work on them
#   experts    a layer of experts
#   matmul     a batched product of two tensors that the step computes, or with a weight per head
#   opaque     whatever no family covers: runs node by node through PyTorch
FAMILIES = (
    "view",
    "pointwise",
    "row",
    "linear",
    "heads",
    "attention",
    "gather",
    "experts",
    "matmul",
    "opaque",
)


@dataclass(frozen=True, slots=True)
class Region:
    """Nodes of one graph, by position and in running order, that are computed together.

    Attributes:
        nodes: positions in ``graph.nodes``.
        inputs: values read from outside, each once, in order of first use.
        outputs: values made inside that are read outside, in order of definition.
        scope: path of the module that most of the nodes come from.
        family: the kernel family that computes it, one of ``FAMILIES``.
        name: what it computes, in words such as ``add_rms_norm``; equal work has equal names.
    """

    nodes: tuple[int, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    scope: str
    family: str = "opaque"
    name: str = ""


def make_region(
    graph: Graph,
    positions: Sequence[int],
    *,
    family: str = "opaque",
    name: str = "",
    scope: str = "",
) -> Region:
    """The region of ``graph`` that holds the nodes at ``positions``.

    Nodes that only give data another shape cost nothing, so several regions may hold the same one:
    a region reads buffers, and what it makes of their shapes is its own affair. Its outputs are
    therefore what its other nodes make, as far as something outside reads it, through such nodes
    or not. Only a region of nothing else gives the other shapes themselves.
    """
    nodes = [graph.nodes[position] for position in positions]
    inside = set(nodes)
    made = {value for node in nodes for value in node.outputs}
    inputs = dict.fromkeys(value for node in nodes for value in node.inputs if value not in made)
    real = [node for node in nodes if not is_alias(graph, node)]
    outputs = [
        value
        for node in real or nodes
        for value in node.outputs
        if _is_read_outside(graph, value, inside)
    ]
    scopes = [node.loc.module for node in nodes if node.loc and node.loc.module]
    if scopes and not scope:
        scope = max(dict.fromkeys(scopes), key=scopes.count)
    ops = dict.fromkeys(node.op for node in nodes)
    return Region(
        tuple(positions), tuple(inputs), tuple(outputs), scope, family, name or "+".join(ops)
    )


def is_alias(graph: Graph, node: Node) -> bool:
    """Whether a node only gives data another shape, and what it gives is not an output."""
    return is_view(node.op) and not any(value in graph.outputs for value in node.outputs)


def base_of(graph: Graph, value: Value) -> Value:
    """The value that holds the data of ``value``, which may be that data under another shape."""
    while (node := graph.producers.get(value)) is not None and is_alias(graph, node):
        value = node.inputs[0]
    return value


def readers(graph: Graph, value: Value) -> Iterator[Node]:
    """The nodes that read the data of ``value``, under its own shape or another."""
    for node in graph.users.get(value, ()):
        if is_alias(graph, node):
            for other in node.outputs:
                yield from readers(graph, other)
        else:
            yield node


def _is_read_outside(graph: Graph, value: Value, inside: AbstractSet[Node]) -> bool:
    return value in graph.outputs or any(node not in inside for node in readers(graph, value))


def state_root(graph: Graph, value: Value) -> Value:
    """The graph input of which ``value``, a state, is a later version."""
    while (node := graph.producers.get(value)) is not None:
        value = next(v for v in node.inputs if isinstance(v.type, StateType))
    return value
