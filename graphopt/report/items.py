"""What the drawings show as boxes: the nodes of a graph, or the regions that a plan's steps run.

before:  a graph, and for the regions its plan
after:   boxes in running order, each with its nodes and the values that cross its border
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import ops
from graphopt.ir.graph import Graph, Node, Value
from graphopt.plan import Plan
from graphopt.region import make_region

# What an operator is drawn as; the most telling family comes first. What is not here is a view,
# pointwise, or not ours.
FAMILY_OPS = (
    ("attention", ("attention",)),
    ("experts", ("moe_experts", "quantized_experts", "moe_router")),
    ("linear", ("linear", "quantized_linear", "matmul", "conv1d")),
    ("state", ("kv_write", "latent_write")),
    ("row", ("rms_norm", "layer_norm", "softmax", "log_softmax", "sum", "mean", "amax", "amin")),
    ("row", ("prod", "any", "var", "argmax", "cumsum", "topk", "sort")),
    ("gather", ("embed", "quantized_embed", "gather", "index_select", "scatter", "one_hot")),
    ("gather", ("concat", "pad_constant", "flip", "roll", "repeat_interleave")),
)
FAMILIES = (*dict.fromkeys(family for family, _ in FAMILY_OPS), "pointwise", "view", "other")


@dataclass(frozen=True, slots=True)
class Item:
    """A box.

    Attributes:
        name: the operator, or what the region computes.
        nodes: what is inside, in running order.
        inputs: values read from outside, weights too.
        outputs: values that are read outside.
        scope: path of the module that most of it comes from.
        backend: who runs it; empty in a graph without a plan.
        kernel: the backend's name for it; empty in a graph without a plan.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    scope: str
    backend: str = ""
    kernel: str = ""

    @property
    def family(self) -> str:
        """What it is drawn as: the most telling of its nodes' families."""
        return min((family_of(node.op) for node in self.nodes), key=FAMILIES.index)


def family_of(op: str) -> str:
    """What an operator is drawn as, one of ``FAMILIES``."""
    for family, names in FAMILY_OPS:
        if op in names:
            return family
    if ops.is_view(op):
        return "view"
    return "pointwise" if op in ops.OPS else "other"


def node_items(graph: Graph) -> tuple[Item, ...]:
    """A box for each node."""
    return tuple(
        Item(
            node.op,
            (node,),
            tuple(dict.fromkeys(node.inputs)),
            node.outputs,
            node.loc.module if node.loc is not None else "",
        )
        for node in graph.nodes
    )


def step_items(graph: Graph, plan: Plan) -> tuple[Item, ...]:
    """A box for each step of the plan."""
    found = []
    for step in plan.steps():
        region = make_region(graph, step.nodes)
        found.append(
            Item(
                step.name or region.name,
                tuple(graph.nodes[position] for position in step.nodes),
                region.inputs,
                region.outputs,
                step.scope,
                step.backend,
                step.kernel,
            )
        )
    return tuple(found)
