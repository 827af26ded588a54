"""Making graphs: ``GraphBuilder`` from nothing, ``Rewriter`` from another graph.

Both check and infer as they go, so what they finish is well formed.

    b = GraphBuilder("double")
    x = b.input("x", TensorType(DType.F32, (sym("T"), 8)))
    graph = b.finish([b.one("add", [x, x])])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from graphopt.errors import VerifyError

from .graph import Attr, Graph, Node, SourceLocation, Value
from .ops import canonical_attrs, check_node_types, is_aten, keeps_state
from .types import Type


class GraphBuilder:
    """Appends nodes to a graph. Values without a name are called ``0``, ``1``, ...

    Args:
        name: name of the graph.
        reserved: names of values that it must not make up.
    """

    def __init__(self, name: str, *, reserved: Iterable[str] = ()) -> None:
        self.name = name
        self._inputs: list[Value] = []
        self._weights: dict[str, Value] = {}
        self._nodes: list[Node] = []
        self._makers: dict[Value, Node] = {}
        self._known: set[Value] = set()
        self._taken: set[str] = set()
        self._reserved = set(reserved)
        self._counter = 0

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes so far."""
        return self._nodes

    def input(self, name: str, type: Type) -> Value:
        """A new input of the graph.

        Raises:
            VerifyError: the name is taken.
        """
        value = Value(self._claim(name), type)
        self._inputs.append(value)
        self._known.add(value)
        return value

    def weight(self, name: str, type: Type) -> Value:
        """The weight called ``name``: a new one, or the one made before.

        Raises:
            VerifyError: it was made before with another type.
        """
        found = self._weights.get(name)
        if found is None:
            found = self.adopt_weight(Value(name, type, is_weight=True))
        elif found.type != type:
            raise VerifyError(f"weight @{name} has two types", got=type, expected=found.type)
        return found

    def adopt_weight(self, value: Value) -> Value:
        """Takes over a weight of another graph as it is."""
        self._weights[value.name] = value
        self._known.add(value)
        return value

    def adopt_input(self, value: Value) -> Value:
        """Takes over an input of another graph as it is."""
        self._claim(value.name)
        self._inputs.append(value)
        self._known.add(value)
        return value

    def node(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Attr] | None = None,
        *,
        loc: SourceLocation | None = None,
        types: Sequence[Type] | None = None,
        names: Sequence[str] | None = None,
    ) -> tuple[Value, ...]:
        """Appends a node and gives its outputs.

        Args:
            op: the operator.
            inputs: values of this graph.
            attrs: attributes; missing ones take their defaults.
            loc: where the model's code computes this.
            types: types of the outputs: required for ``aten.*``, checked against for others.
            names: names of the outputs.

        Raises:
            VerifyError: the node is not well formed.
        """
        types_in = tuple(value.type for value in inputs)
        for value in inputs:
            if value not in self._known:
                raise VerifyError(f"{op}: {value} is not a value of this graph", where=_at(loc))
        done = canonical_attrs(op, types_in, attrs or {})
        inferred = self._types(op, types_in, done, types, loc)
        if names is not None and len(names) != len(inferred):
            raise VerifyError(
                f"{op}: wrong number of names", got=len(names), expected=len(inferred)
            )
        outputs = tuple(
            Value(self._fresh() if names is None else self._claim(names[i]), type_)
            for i, type_ in enumerate(inferred)
        )
        self._append(Node(op, tuple(inputs), outputs, done, loc))
        return outputs

    def one(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Attr] | None = None,
        *,
        loc: SourceLocation | None = None,
        types: Sequence[Type] | None = None,
        names: Sequence[str] | None = None,
    ) -> Value:
        """Appends a node that has one output, and gives it.

        Raises:
            VerifyError: the node is not well formed, or has more outputs.
        """
        outputs = self.node(op, inputs, attrs, loc=loc, types=types, names=names)
        if len(outputs) != 1:
            raise VerifyError(f"{op} does not have one output", got=len(outputs), where=_at(loc))
        return outputs[0]

    def adopt_node(self, node: Node) -> tuple[Value, ...]:
        """Appends a node as it is, unchecked; its outputs become values of this graph."""
        for value in node.outputs:
            self._claim(value.name)
        self._append(node)
        return node.outputs

    def maker(self, value: Value) -> Node | None:
        """The node that makes ``value``; None for inputs and weights."""
        return self._makers.get(value)

    def finish(self, outputs: Sequence[Value]) -> Graph:
        """The graph.

        Raises:
            VerifyError: an output is not a value of this graph.
        """
        for value in outputs:
            if value not in self._known:
                raise VerifyError(f"output {value} is not a value of graph @{self.name}")
        return Graph(
            self.name,
            tuple(self._inputs),
            tuple(self._weights.values()),
            tuple(self._nodes),
            tuple(outputs),
        )

    def _types(
        self,
        op: str,
        inputs: tuple[Type, ...],
        attrs: Mapping[str, Attr],
        given: Sequence[Type] | None,
        loc: SourceLocation | None,
    ) -> tuple[Type, ...]:
        if is_aten(op):
            if given is None:
                raise VerifyError(f"{op}: types of the outputs are not given", where=_at(loc))
            return tuple(given)
        inferred = check_node_types(op, inputs, attrs)
        if given is not None and tuple(given) != inferred:
            raise VerifyError(
                f"{op}: the outputs have other types",
                where=_at(loc),
                got=", ".join(map(str, given)),
                expected=", ".join(map(str, inferred)),
            )
        return inferred

    def _append(self, node: Node) -> None:
        self._nodes.append(node)
        self._known.update(node.outputs)
        self._makers.update((value, node) for value in node.outputs)

    def _claim(self, name: str) -> str:
        if name in self._taken:
            raise VerifyError(f"two values are called %{name}", where=f"graph @{self.name}")
        self._taken.add(name)
        return name

    def _fresh(self) -> str:
        name = str(self._counter)
        while name in self._taken or name in self._reserved:
            self._counter += 1
            name = str(self._counter)
        self._counter += 1
        return self._claim(name)


def _at(loc: SourceLocation | None) -> str | None:
    return str(loc) if loc is not None and str(loc) else None


class Rewriter:
    """Replays a graph's nodes into a new graph, with values replaced on the way.

    For each old node in order, either ``copy`` it or make new nodes and ``replace`` its outputs.
    Inputs are kept, and change their type where ``retyped`` says so; weights that end unused are
    dropped, as are nodes that nobody needs, except those that make a version of a state. What does
    not change is shared with the old graph.

        rewriter = Rewriter(graph)
        for node in graph.nodes:
            if node.op == "neg":
                new = rewriter.one("mul", [rewriter.value(node.inputs[0])], {"scalar": -1.0})
                rewriter.replace(node.output, new)
            else:
                rewriter.copy(node)
        graph = rewriter.finish()
    """

    def __init__(
        self,
        graph: Graph,
        *,
        name: str | None = None,
        retyped: Mapping[Value, Type] = MappingProxyType({}),
    ) -> None:
        self.graph = graph
        self._builder = GraphBuilder(
            name or graph.name, reserved=(value.name for value in graph.values())
        )
        self._now: dict[Value, Value] = {}
        for value in graph.inputs:
            type_ = retyped.get(value, value.type)
            new = value if type_ == value.type else Value(value.name, type_)
            self._now[value] = self._known(self._builder.adopt_input(new))
        for value in graph.weights:
            self._now[value] = self._builder.adopt_weight(value)

    def value(self, old: Value) -> Value:
        """What stands for ``old`` in the new graph; a value of the new graph stands for itself.

        Raises:
            VerifyError: the node that makes it was neither copied nor replaced yet.
        """
        found = self._now.get(old)
        if found is None:
            raise VerifyError(
                f"{old} is not in the new graph yet", where=f"graph @{self.graph.name}"
            )
        return found

    def replace(self, old: Value, new: Value) -> None:
        """From here on ``new``, a value of the new graph, stands for ``old``.

        Raises:
            VerifyError: ``new`` is not in the new graph.
        """
        self._now[old] = self.value(new)

    def maker(self, new: Value) -> Node | None:
        """The node of the new graph that makes ``new``; None for inputs and weights."""
        return self._builder.maker(new)

    def input(self, name: str, type: Type) -> Value:
        """A new input, after those there are."""
        return self._known(self._builder.input(name, type))

    def weight(self, name: str, type: Type) -> Value:
        """A weight, new or known."""
        return self._known(self._builder.weight(name, type))

    def node(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Attr] | None = None,
        *,
        loc: SourceLocation | None = None,
        types: Sequence[Type] | None = None,
    ) -> tuple[Value, ...]:
        """Appends a node; ``inputs`` may be old values. As ``GraphBuilder.node``."""
        now = [self.value(value) for value in inputs]
        outputs = self._builder.node(op, now, attrs, loc=loc, types=types)
        for value in outputs:
            self._known(value)
        return outputs

    def one(
        self,
        op: str,
        inputs: Sequence[Value],
        attrs: Mapping[str, Attr] | None = None,
        *,
        loc: SourceLocation | None = None,
        types: Sequence[Type] | None = None,
    ) -> Value:
        """Appends a node that has one output; ``inputs`` may be old values."""
        now = [self.value(value) for value in inputs]
        return self._known(self._builder.one(op, now, attrs, loc=loc, types=types))

    def copy(self, node: Node) -> tuple[Value, ...]:
        """Replays an old node on what its inputs are now, and gives what its outputs are now.

        Raises:
            VerifyError: the new inputs have types that the operator does not take.
        """
        inputs = tuple(self.value(value) for value in node.inputs)
        if inputs == node.inputs:
            outputs = self._builder.adopt_node(node)
        else:
            outputs = node.outputs
            before = tuple(value.type for value in node.inputs)
            after = tuple(value.type for value in inputs)
            if before != after and not is_aten(node.op):
                types = check_node_types(node.op, after, node.attrs)
                outputs = tuple(
                    old if old.type == type_ else Value(old.name, type_)
                    for old, type_ in zip(node.outputs, types, strict=True)
                )
            self._builder.adopt_node(Node(node.op, inputs, outputs, node.attrs, node.loc))
        for old, new in zip(node.outputs, outputs, strict=True):
            self._now[old] = self._known(new)
        return outputs

    def finish(self, outputs: Sequence[Value] | None = None) -> Graph:
        """The new graph. Its outputs are what stands for the old ones, or for ``outputs``.

        Raises:
            VerifyError: an output is not in the new graph.
        """
        wanted = self.graph.outputs if outputs is None else outputs
        return without_dead_nodes(self._builder.finish([self.value(value) for value in wanted]))

    def _known(self, value: Value) -> Value:
        self._now.setdefault(value, value)
        return value


def rewrite_nodes(graph: Graph, visit: Callable[[Rewriter, Node], bool]) -> Graph:
    """A graph in which ``visit`` has rewritten nodes; where it says False the node is copied."""
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if not visit(rewriter, node):
            rewriter.copy(node)
    return rewriter.finish()


def without_dead_nodes(graph: Graph) -> Graph:
    """The graph without nodes and weights that no output and no state needs."""
    live = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if keeps_state(node) or any(value in live for value in node.outputs):
            kept.append(node)
            live.update(node.inputs)
    weights = tuple(value for value in graph.weights if value in live)
    if len(kept) == len(graph.nodes) and len(weights) == len(graph.weights):
        return graph
    return Graph(graph.name, graph.inputs, weights, tuple(reversed(kept)), graph.outputs)


def renumbered(graph: Graph) -> Graph:
    """The graph with values that have numbers for names counted anew, in order from 0."""
    taken = {value.name for value in graph.inputs}
    taken.update(v.name for node in graph.nodes for v in node.outputs if not v.name.isdigit())
    now: dict[Value, Value] = {}
    nodes: list[Node] = []
    counter = 0
    for node in graph.nodes:
        outputs: list[Value] = []
        for value in node.outputs:
            new = value
            if value.name.isdigit():
                while str(counter) in taken:
                    counter += 1
                new = value if value.name == str(counter) else Value(str(counter), value.type)
                counter += 1
            now[value] = new
            outputs.append(new)
        inputs = tuple(now.get(value, value) for value in node.inputs)
        nodes.append(Node(node.op, inputs, tuple(outputs), node.attrs, node.loc))
    wanted = tuple(now.get(value, value) for value in graph.outputs)
    return Graph(graph.name, graph.inputs, graph.weights, tuple(nodes), wanted)
