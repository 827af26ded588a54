"""Take out of the graph what does not depend on the step: it is computed once, when compiling.

before:  %w = concat(@wq, @wk, @wv);  %y = linear(%x, %w)
after:   %y = linear(%x, @wq-wk-wv), and a second graph that makes the new weight from the old ones

A large constant that takes more memory than the weights it is made from stays where it is, since
dequantizing is work for the kernel that reads the weight; so does one whose weight the graph reads
as it is too: no large weight is kept twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.builder import GraphBuilder, Rewriter
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType, nbytes
from graphopt.ledger import Ledger, accept, refuse

from .constants import constant_nodes, is_constant
from .manager import place_of

# A constant of at most this size may take more memory than what it is made from.
SMALL_BYTES = 1 << 20

# What rounding a weight gives, as names of weights end.
_PARTS = {"quantize_weight": ("integers", "scales"), "fp8_weight": ("numbers", "scales")}


@dataclass(frozen=True, slots=True)
class Hoisted:
    """A graph without constant work, and the work.

    Attributes:
        graph: reads folded weights by name.
        constants: no inputs; the outputs are the folded weights, under the names that the graph
            reads them by.
    """

    graph: Graph
    constants: Graph


def not_hoisted(graph: Graph) -> Hoisted:
    """The graph as it is, for weights that may change between two steps."""
    return Hoisted(graph, Graph(f"{graph.name}_constants", (), (), (), ()))


def hoist(graph: Graph, ledger: Ledger) -> Hoisted:
    """Split ``graph`` into what runs in a step and what runs once."""
    sources = _sources(graph)
    taken = _affordable(graph, sources, ledger)
    inside = set(taken)
    wanted = [
        value
        for node in taken
        for value in node.outputs
        if value in graph.outputs or any(u not in inside for u in graph.users.get(value, ()))
    ]
    names = _names(graph, wanted, sources)
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if node in inside:
            for value in node.outputs:
                if value in names:
                    rewriter.replace(value, rewriter.weight(names[value], value.type))
        else:
            rewriter.copy(node)
    for value, name in names.items():
        made_of = ", ".join(f"@{weight.name}" for weight in sources[value])
        ledger.record("hoist", f"@{name}", accept(f"made once from {made_of}"))
    return Hoisted(rewriter.finish(), _constants(graph, taken, names))


def _sources(graph: Graph) -> Mapping[Value, tuple[Value, ...]]:
    """The weights that each constant is made from, in order of first use."""
    found: dict[Value, tuple[Value, ...]] = {weight: (weight,) for weight in graph.weights}
    for node in constant_nodes(graph):
        made_of = tuple(dict.fromkeys(w for value in node.inputs for w in found[value]))
        found.update(dict.fromkeys(node.outputs, made_of))
    return found


def _affordable(
    graph: Graph, sources: Mapping[Value, tuple[Value, ...]], ledger: Ledger
) -> tuple[Node, ...]:
    """The constant nodes that are computed once.

    The last are looked at first, and all again after a refusal: what it leaves in the graph reads
    weights that others counted on nobody reading.
    """
    nodes = constant_nodes(graph)
    constant = set(nodes)
    read = {value for node in graph.nodes if node not in constant for value in node.inputs}
    read.update(graph.outputs)
    kept: set[Node] = set()
    refused = True
    while refused:
        refused = False
        for node in reversed(nodes):
            if node in kept or not any(value in read for value in node.outputs):
                continue  # only constants read it, and they are computed once
            if reason := _why_not(node, sources, read):
                ledger.record("hoist", place_of(node), refuse(reason, node.output))
                kept.add(node)
                read.update(node.inputs)
                refused = True
    return tuple(node for node in nodes if node not in kept)


def why_not_folded(
    graph: Graph,
    values: Sequence[Value],
    readers: Collection[Node],
    *,
    made_bytes: int | None = None,
) -> str:
    """Why one constant made of ``values``, which are constants, would be made in every step.

    Args:
        graph: where.
        values: what it would be made of.
        readers: nodes that read ``values`` now, and would read the new constant instead.
        made_bytes: size of the new constant; None if it has that of ``values`` together.

    Returns:
        The reason; nothing if it would be made once.
    """
    given = dict.fromkeys(weight for value in values for weight in _weights_in(graph, value))

    def is_read(weight: Value) -> bool:
        others = (node for node in graph.users.get(weight, ()) if node not in readers)
        return weight in graph.outputs or any(not is_constant(graph, n.output) for n in others)

    made = sum(map(_bytes, values)) if made_bytes is None else made_bytes
    return _costs(made, tuple(given), is_read)


def _weights_in(graph: Graph, value: Value) -> Iterator[Value]:
    """The weights that a constant is made from."""
    node = graph.producers.get(value)
    if node is None:
        yield value
    else:
        for one in node.inputs:
            yield from _weights_in(graph, one)


def _why_not(node: Node, sources: Mapping[Value, tuple[Value, ...]], read: set[Value]) -> str:
    """Why computing a node once would take memory that it does not give back."""
    made = sum(_bytes(value) for value in node.outputs)
    return _costs(made, sources[node.output], read.__contains__)


def _costs(made: int, given: Sequence[Value], is_read: Callable[[Value], bool]) -> str:
    """Why a constant of ``made`` bytes that is made of ``given`` would take memory."""
    if made <= SMALL_BYTES:
        return ""
    if made > sum(map(_bytes, given)):
        return "it takes more memory than what it is made from"
    still_read = [weight for weight in given if is_read(weight)]
    if still_read:
        return f"{still_read[0]} is read as it is too, and would be kept twice"
    return ""


def _constants(graph: Graph, nodes: Iterable[Node], names: Mapping[Value, str]) -> Graph:
    """The graph without inputs that makes the folded weights."""
    builder = GraphBuilder(f"{graph.name}_constants")
    taken = tuple(nodes)
    read = {value for node in taken for value in node.inputs}
    for weight in graph.weights:
        if weight in read:
            builder.adopt_weight(weight)
    now = {value: Value(name, value.type) for value, name in names.items()}
    for node in taken:
        inputs = tuple(now.get(value, value) for value in node.inputs)
        outputs = tuple(now.get(value, value) for value in node.outputs)
        builder.adopt_node(Node(node.op, inputs, outputs, node.attrs, node.loc))
    return builder.finish([now[value] for value in names])


def _names(
    graph: Graph, wanted: Iterable[Value], sources: Mapping[Value, tuple[Value, ...]]
) -> dict[Value, str]:
    """A name for each folded weight that says what it is made from, none of them taken."""
    taken = {value.name for value in graph.values()}
    found: dict[Value, str] = {}
    for value in wanted:
        base = joined([weight.name for weight in sources[value]])
        maker = graph.producers[value]
        if maker.op in _PARTS:
            part = _PARTS[maker.op][maker.outputs.index(value)]
            base = f"{base.removesuffix('.folded')}.{part}"
        name, number = base, 2
        while name in taken:
            name, number = f"{base}.{number}", number + 1
        taken.add(name)
        found[value] = name
    return found


def joined(names: list[str]) -> str:
    """Several weights' names in one: ``a.q.weight`` and ``a.k.weight`` give ``a.q-k.weight``."""
    if len(names) == 1:
        return f"{names[0]}.folded"
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    head = 0
    while head < shortest and len({part[head] for part in parts}) == 1:
        head += 1
    tail = 0
    while tail < shortest - head and len({part[len(part) - 1 - tail] for part in parts}) == 1:
        tail += 1
    middles = [".".join(part[head : len(part) - tail]) for part in parts]
    common = parts[0]
    middle = "-".join(dict.fromkeys(m for m in middles if m))
    return ".".join([*common[:head], middle, *common[len(common) - tail :]]).strip(".")


def _bytes(value: Value) -> int:
    size = nbytes(value.type)
    return size if isinstance(value.type, TensorType) and isinstance(size, int) else 0
