"""The rules of a well-formed graph, checked after every pass in tests and on every graph read.

Every value is defined once, before it is read, under a name of its own; every operator is known and
has the attributes its row in the table asks for; every type is what inference says; sizes mention
only symbols that the inputs bind. A version of a state is overwritten at most once, and nobody
reads it afterwards, because the plan updates memory in place.
"""

from __future__ import annotations

import re

from graphopt.errors import VerifyError

from .graph import Attr, Graph, Node, Value
from .ops import check_node_types, check_template, is_aten
from .printer import print_node
from .shape import Expr, symbols
from .types import STATE_KINDS, StateType, TensorType, Type

_OPERATOR = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)


def verify(graph: Graph) -> None:
    """Demands that a graph is well formed.

    Raises:
        VerifyError: it breaks a rule; the error names the node and its source location.
    """
    checker = _Checker(graph)
    for value in graph.inputs:
        checker.define(value, None)
        if value.is_weight:
            raise VerifyError(f"input {value.name} is a weight", where=f"graph @{graph.name}")
    for value in graph.weights:
        checker.define(value, None)
        if not value.is_weight or not isinstance(value.type, TensorType):
            raise VerifyError(f"weight {value.name} is not a weight", got=repr(value))
        if not all(isinstance(dim, int) for dim in value.type.shape):
            raise VerifyError(f"the size of weight {value.name} is not known", got=value.type)
    for node in graph.nodes:
        checker.node(node)
    for value in graph.outputs:
        checker.read(value, None)


class _Checker:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.defined: set[Value] = set()
        self.names: set[str] = set()
        self.writers: dict[Value, Node] = {}
        self.bound = frozenset().union(
            *(symbols(dim) for value in graph.inputs for dim in _dims(value.type))
        )

    def node(self, node: Node) -> None:
        for value in node.inputs:
            self.read(value, node)
        if not _OPERATOR.fullmatch(node.op):
            raise _broken("not a name of an operator", node, got=repr(node.op))
        if node.loc is not None and node.loc.line < 0:
            raise _broken("a source line is negative", node, got=node.loc.line)
        if not node.outputs:
            raise _broken("a node has no outputs", node)
        self.types(node)
        for attr in node.attrs.values():
            self.sizes(attr, node)
        for value in node.outputs:
            if value.is_weight:
                raise _broken("a node makes a weight", node, got=str(value))
            self.define(value, node)
        self.states(node)

    def types(self, node: Node) -> None:
        inputs = tuple(value.type for value in node.inputs)
        outputs = tuple(value.type for value in node.outputs)
        try:
            if is_aten(node.op):
                check_template(node.op, len(inputs), node.attrs)
                inferred = outputs
            else:
                inferred = check_node_types(node.op, inputs, node.attrs)
        except VerifyError as error:
            raise VerifyError(
                error.what,
                where=_where(node),
                got=error.got,
                expected=error.expected,
                next=error.next,
            ) from error
        if inferred != outputs:
            raise _broken(
                "the outputs have other types than inference gives",
                node,
                got=", ".join(map(str, outputs)),
                expected=", ".join(map(str, inferred)),
            )

    def define(self, value: Value, node: Node | None) -> None:
        if value in self.defined:
            raise _broken(f"{value} is defined twice", node)
        if str(value) in self.names:
            raise _broken(f"two values are called {value}", node)
        if isinstance(value.type, StateType):
            _check_state(value.type, node)
        for dim in _dims(value.type):
            if isinstance(dim, int) and dim < 0:
                raise _broken(f"{value} has a negative size", node, got=value.type)
            self.sizes(dim, node)
        self.defined.add(value)
        self.names.add(str(value))

    def read(self, value: Value, node: Node | None) -> None:
        if value not in self.defined:
            raise _broken(f"{value} is read and not defined before", node)
        if value in self.writers:
            raise _broken(
                f"{value} is read after it was overwritten",
                node,
                got=print_node(self.writers[value]),
                expected="the version that this node makes",
            )

    def sizes(self, attr: Attr, node: Node | None) -> None:
        """Every symbol is bound by an input."""
        if isinstance(attr, tuple):
            for item in attr:
                self.sizes(item, node)
        elif isinstance(attr, Expr) and not symbols(attr) <= self.bound:
            raise _broken(
                "a size has a symbol that no input binds",
                node,
                got=attr,
                expected=", ".join(sorted(self.bound)) or "numbers",
            )

    def states(self, node: Node) -> None:
        if not any(isinstance(value.type, StateType) for value in node.outputs):
            return
        for value in node.inputs:
            if isinstance(value.type, StateType):
                self.writers[value] = node


def _dims(type_: Type) -> tuple[int | Expr, ...]:
    return type_.shape if isinstance(type_, TensorType) else ()


def _check_state(type_: StateType, node: Node | None) -> None:
    if type_.kind not in STATE_KINDS:
        raise _broken(
            "no such kind of state", node, got=type_.kind, expected=", ".join(STATE_KINDS)
        )
    for layer in type_.layers:
        sizes = (layer.heads, layer.key_size, layer.value_size)
        if min(sizes) < 1 or layer.window < 0:
            raise _broken("a layer's state has no size", node, got=layer)
        if type_.is_latent and layer.value_size > layer.key_size:
            raise _broken("a latent layer's values are longer than its keys", node, got=layer)


def _where(node: Node | None) -> str | None:
    if node is None:
        return None
    place = f"{node.loc}: " if node.loc is not None and str(node.loc) else ""
    return place + print_node(node)


def _broken(
    what: str, node: Node | None, *, got: object = None, expected: object = None
) -> VerifyError:
    return VerifyError(what, where=_where(node), got=got, expected=expected)
