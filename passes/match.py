"""Patterns over a graph: what a rule looks for, and why a place that looks like it is not it.

A pattern is a tree that is read from its root, a node, upwards to what the node is made from:

    x, w = Var("x"), Var("w")
    op.mul(op.rsqrt(op.add(op.mean(op.pow(x, scalar=2.0)), scalar=Attr("eps"))), w)

``Var`` stands for any value and for the same one wherever its name occurs; ``Attr`` takes an
attribute; operators that commute match either way round; ``maybe.cast(p)`` is ``p`` with or without
a cast; ``either(p, q)`` is one of them; ``chain("act", ops, p)`` is any number of one-input nodes
above ``p``. Attributes that a pattern does not name may be anything. The answer is a ``Match`` with
what the names stand for, or a ``Miss`` that says how far the best try came and what stopped it.

The time is bounded by the pattern, not by the graph: a pattern never looks further up than it is
deep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphopt.ir.graph import Attr as AttrValue
from graphopt.ir.graph import Graph, Node, SourceLocation, Value

COMMUTATIVE = frozenset(
    {
        "add",
        "mul",
        "maximum",
        "minimum",
        "eq",
        "ne",
        "logical_and",
        "logical_or",
        "bitwise_and",
        "bitwise_or",
    }
)
# Stand before and after everything, so that having matched one says nothing.
COMMONPLACE = frozenset({"cast"})


class Pattern:
    """What a value may be made of."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Var(Pattern):
    """Any value; the same one wherever the name occurs.

    Attributes:
        name: what the match calls it.
        refuses: says in a few words why a value will not do, or nothing if it will.
    """

    name: str
    refuses: Callable[[Value], str] | None = None


@dataclass(frozen=True, slots=True)
class Attr:
    """An attribute, which the match then holds under ``name``.

    Attributes:
        name: what the match calls it; equal wherever the name occurs.
        accepts: whether a value will do; None for any.
        expected: what ``accepts`` wants, in words.
    """

    name: str
    accepts: Callable[[Any], bool] | None = None
    expected: str = "another value"


@dataclass(frozen=True, slots=True)
class Op(Pattern):
    """A node of this operator, whose inputs match in turn.

    Attributes:
        name: the operator.
        inputs: one pattern for each input.
        attrs: attributes it must have: a value, or an ``Attr``.
        index: which of its outputs the value is.
    """

    name: str
    inputs: tuple[Pattern, ...]
    attrs: Mapping[str, object] = field(default_factory=dict)
    index: int = 0

    def output(self, index: int) -> Op:
        """The same node by another of its outputs."""
        return Op(self.name, self.inputs, self.attrs, index)


@dataclass(frozen=True, slots=True)
class Either(Pattern):
    """The first of several patterns that matches."""

    options: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Chain(Pattern):
    """Any number of nodes with one input each, of some operators, above a pattern.

    The match holds the nodes under ``name``, in running order.
    """

    name: str
    ops: frozenset[str]
    above: Pattern


class _Ops:
    """``op.add(x, y, scalar=2.0)`` is the pattern of an ``add``."""

    def __getattr__(self, name: str) -> Callable[..., Op]:
        def make(*inputs: Pattern, **attrs: object) -> Op:
            return Op(name, inputs, attrs)

        return make


class _Maybe:
    """``maybe.cast(p)`` is ``cast(p)`` or ``p``."""

    def __getattr__(self, name: str) -> Callable[..., Either]:
        def make(of: Pattern, *inputs: Pattern, **attrs: object) -> Either:
            return Either((Op(name, (of, *inputs), attrs), of))

        return make


op = _Ops()
maybe = _Maybe()


def either(*options: Pattern) -> Either:
    """One of several patterns; the first that matches as a whole."""
    return Either(options)


def chain(name: str, ops: Sequence[str], above: Pattern) -> Chain:
    """Any number of one-input nodes of ``ops`` above a pattern."""
    return Chain(name, frozenset(ops), above)


@dataclass(frozen=True, slots=True)
class Match:
    """A place where a pattern holds.

    ``m.x`` is the value that stands for ``Var("x")``; ``m["eps"]`` what ``Attr("eps")`` took;
    ``"eps" in m`` whether it took anything.

    Attributes:
        graph: where.
        root: the node at the pattern's root.
        nodes: the nodes the pattern covers, the root first.
        values: what the variables stand for.
        attrs: what the attributes are.
        chains: the nodes of each chain.
    """

    graph: Graph
    root: Node
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    attrs: Mapping[str, AttrValue]
    chains: Mapping[str, tuple[Node, ...]]

    def __getattr__(self, name: str) -> Value:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, name: str) -> Any:
        return self.attrs[name]

    def get(self, name: str, default: AttrValue) -> Any:
        """The attribute called ``name``; ``default`` if the match took none."""
        return self.attrs.get(name, default)

    def __contains__(self, name: str) -> bool:
        return name in self.values or name in self.attrs or name in self.chains

    @property
    def loc(self) -> SourceLocation | None:
        """Where the model's code computes the root."""
        return self.root.loc

    def used_outside(self, *, but: Sequence[Value] = ()) -> tuple[Value, ...]:
        """Values made inside, other than the root's, that something outside reads."""
        inside = set(self.nodes)
        kept = {*self.root.outputs, *but}
        returned = set(self.graph.outputs)
        return tuple(
            value
            for node in self.nodes
            for value in node.outputs
            if value not in kept
            and (
                value in returned
                or any(user not in inside for user in self.graph.users.get(value, ()))
            )
        )


@dataclass(frozen=True, slots=True)
class Miss:
    """A place where a pattern does not hold.

    Attributes:
        reason: what stopped the try that came furthest.
        culprits: the values at fault.
        matched: how many nodes that try had matched, apart from commonplace ones.
    """

    reason: str
    culprits: tuple[Value, ...]
    matched: int


@dataclass(frozen=True, slots=True)
class _State:
    """What a try has found so far; ``matched`` counts nodes that are not commonplace."""

    matched: int = 0
    nodes: tuple[Node, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)
    attrs: Mapping[str, AttrValue] = field(default_factory=dict)
    chains: Mapping[str, tuple[Node, ...]] = field(default_factory=dict)

    def with_node(self, node: Node) -> _State:
        """The state after one more node."""
        matched = self.matched + (node.op not in COMMONPLACE)
        return replace(self, matched=matched, nodes=(*self.nodes, node))


def size(pattern: Pattern) -> int:
    """The least number of nodes that a pattern covers, apart from commonplace ones."""
    match pattern:
        case Op():
            return (pattern.name not in COMMONPLACE) + sum(map(size, pattern.inputs))
        case Either():
            return min(map(size, pattern.options))
        case Chain():
            return size(pattern.above)
    return 0


def roots(pattern: Pattern) -> frozenset[str]:
    """The operators that a node at the pattern's root can have."""
    match pattern:
        case Op():
            return frozenset({pattern.name})
        case Either():
            return frozenset[str]().union(*map(roots, pattern.options))
        case Chain():
            return pattern.ops | roots(pattern.above)
    return frozenset()


def match(pattern: Pattern, graph: Graph, root: Node) -> Match | Miss:
    """Whether ``pattern`` holds at ``root``, whose first output it is unless it names another."""
    matcher = _Matcher(graph)
    for index in range(len(root.outputs)):
        for state in matcher.value(pattern, root.outputs[index], _State()):
            nodes = tuple(dict.fromkeys(state.nodes))
            return Match(graph, root, nodes, state.values, state.attrs, state.chains)
    return matcher.best


class _Matcher:
    """Tries a pattern with backtracking, and remembers the try that came furthest."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.best = Miss("nothing matched", (), -1)
        self._named = False  # whether the best try failed at a node with the right operator

    def value(self, pattern: Pattern, value: Value, state: _State) -> Iterator[_State]:
        """The ways in which ``value`` is what ``pattern`` says."""
        match pattern:
            case Var():
                yield from self._var(pattern, value, state)
            case Op():
                yield from self._op(pattern, value, state)
            case Either():
                for option in pattern.options:
                    yield from self.value(option, value, state)
            case Chain():
                yield from self._chain(pattern, value, state, ())

    def _var(self, pattern: Var, value: Value, state: _State) -> Iterator[_State]:
        known = state.values.get(pattern.name)
        if known is not None:
            if known is value:
                yield state
            else:
                self._miss(state, f"{pattern.name} is {known} elsewhere, not {value}", value)
            return
        if pattern.refuses is not None and (reason := pattern.refuses(value)):
            self._miss(state, f"{pattern.name} is {value}, {reason}", value)
            return
        yield replace(state, values={**state.values, pattern.name: value})

    def _op(self, pattern: Op, value: Value, state: _State) -> Iterator[_State]:
        node = self.graph.producers.get(value)
        if node is None or node.op != pattern.name:
            got = "given to the graph" if node is None else f"made by {node.op}"
            self._miss(state, f"{value} is {got}, not by {pattern.name}", value)
            return
        if node.outputs[pattern.index] is not value:
            self._miss(state, f"{value} is not output {pattern.index} of {node.op}", value)
            return
        if len(node.inputs) != len(pattern.inputs):
            self._miss(
                state,
                f"{node.op} at {value} has {len(node.inputs)} inputs, not {len(pattern.inputs)}",
                value,
                named=True,
            )
            return
        attrs = self._attrs(pattern, node, state)
        if attrs is None:
            return
        inside = replace(state.with_node(node), attrs=attrs)
        yield from self._inputs(pattern.inputs, node.inputs, inside)
        if len(node.inputs) == 2 and node.op in COMMUTATIVE and node.inputs[0] != node.inputs[1]:
            yield from self._inputs(pattern.inputs, node.inputs[::-1], inside)

    def _inputs(
        self, patterns: Sequence[Pattern], values: Sequence[Value], state: _State
    ) -> Iterator[_State]:
        if not patterns:
            yield state
            return
        for after in self.value(patterns[0], values[0], state):
            yield from self._inputs(patterns[1:], values[1:], after)

    def _attrs(self, pattern: Op, node: Node, state: _State) -> Mapping[str, AttrValue] | None:
        """The attributes with this node's, or None if they do not fit."""
        attrs = state.attrs
        for name, wanted in pattern.attrs.items():
            if name not in node.attrs:
                reason = f"{node.op} at {node.output} has no {name}"
                self._miss(state, reason, node.output, named=True)
                return None
            found = node.attrs[name]
            if not isinstance(wanted, Attr):
                if not _equal(found, wanted):
                    self._miss_attr(state, node, name, wanted)
                    return None
            elif wanted.name in attrs:
                if not _equal(attrs[wanted.name], found):
                    self._miss_attr(state, node, name, attrs[wanted.name])
                    return None
            elif wanted.accepts is not None and not wanted.accepts(found):
                self._miss_attr(state, node, name, wanted.expected)
                return None
            else:
                attrs = {**attrs, wanted.name: found}
        return attrs

    def _chain(
        self, pattern: Chain, value: Value, state: _State, below: tuple[Node, ...]
    ) -> Iterator[_State]:
        """The longest chain first."""
        node = self.graph.producers.get(value)
        if node is not None and node.op in pattern.ops and len(node.inputs) == 1:
            yield from self._chain(pattern, node.inputs[0], state.with_node(node), (node, *below))
        chains = {**state.chains, pattern.name: below}
        yield from self.value(pattern.above, value, replace(state, chains=chains))

    def _miss_attr(self, state: _State, node: Node, name: str, wanted: object) -> None:
        self._miss(
            state,
            f"{node.op} at {node.output} has {name} = {node.attrs[name]}, not {wanted}",
            node.output,
            named=True,
        )

    def _miss(self, state: _State, reason: str, *culprits: Value, named: bool = False) -> None:
        """Remember what stopped a try, if none came further; ``named`` is further than not."""
        if (state.matched, named) > (self.best.matched, self._named):
            self.best = Miss(reason, culprits, state.matched)
            self._named = named


def _equal(left: object, right: object) -> bool:
    """Whether two attributes are equal; 2 and 2.0 are, 1 and true are not."""
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return left == right
