"""Patterns match what they say, and a miss says what stopped the best try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir.builder import GraphBuilder, Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType
from graphopt.passes.manager import PassContext
from graphopt.passes.match import (
    COMMUTATIVE,
    Attr,
    Either,
    Match,
    Miss,
    Op,
    Pattern,
    Var,
    _Matcher,
    chain,
    either,
    match,
    maybe,
    op,
    size,
)
from graphopt.passes.rules import RewriteRule, RulePass

X = TensorType(DType.F32, (4, 8))


def norm(*, cast: bool = False, swapped: bool = False, power: float = 2.0) -> Graph:
    """x * rsqrt(mean(x ** power) + 1e-5), with a cast before it and the factors either way."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.BF16, (4, 8)) if cast else X)
    wide = b.one("cast", [x], {"dtype": DType.F32}) if cast else x
    mean = b.one("mean", [b.one("pow", [wide], {"scalar": power})], {"dims": [1], "keepdim": True})
    root = b.one("rsqrt", [b.one("add", [mean], {"scalar": 1e-5})])
    return b.finish([b.one("mul", [root, wide] if swapped else [wide, root])])


x = Var("x")
MEAN = op.mean(op.pow(x, scalar=2.0), keepdim=True)
NORM = op.mul(x, op.rsqrt(op.add(MEAN, scalar=Attr("eps", lambda e: e > 0, "a positive number"))))


def at_end(graph: Graph, pattern=NORM) -> Match | Miss:  # type: ignore[no-untyped-def]
    return match(pattern, graph, graph.nodes[-1])


def test_values_attributes_and_nodes() -> None:
    graph = norm()
    m = at_end(graph)
    assert isinstance(m, Match)
    assert m.x is graph.inputs[0]
    assert m["eps"] == 1e-5
    assert "eps" in m
    assert "other" not in m
    assert set(m.nodes) == set(graph.nodes)
    assert m.root is graph.nodes[-1]
    assert m.used_outside() == ()


def test_operators_that_commute_match_either_way() -> None:
    assert isinstance(at_end(norm(swapped=True)), Match)


def test_a_miss_says_how_far_it_came() -> None:
    miss = at_end(norm(power=3.0))
    assert isinstance(miss, Miss)
    assert miss.reason == "pow at %0 has scalar = 3.0, not 2.0"
    assert miss.matched == 4


def test_maybe_and_either() -> None:
    inner = maybe.cast(Var("narrow"))
    wide = op.abs(inner)
    b = GraphBuilder("g")
    y = b.input("y", TensorType(DType.BF16, (4, 8)))
    graph = b.finish([b.one("abs", [b.one("cast", [y], {"dtype": DType.F32})])])
    m = match(wide, graph, graph.nodes[-1])
    assert isinstance(m, Match)
    assert m.narrow is graph.inputs[0]
    both = either(op.neg(x), op.abs(x))
    m = match(both, graph, graph.nodes[-1])
    assert isinstance(m, Match)
    assert m.x is graph.nodes[0].output
    assert size(both) == 1


def test_the_inside_that_is_used_elsewhere_is_known() -> None:
    b = GraphBuilder("g")
    y = b.input("x", X)
    inner = b.one("neg", [y])
    outer = b.one("neg", [inner])
    graph = b.finish([b.one("add", [outer, inner])])
    m = match(op.neg(op.neg(x)), graph, graph.nodes[1])
    assert isinstance(m, Match)
    assert m.used_outside() == (inner,)
    assert m.used_outside(but=[inner]) == ()


def test_a_chain_is_captured_in_running_order() -> None:
    b = GraphBuilder("g")
    y = b.input("x", X)
    graph = b.finish([b.one("sqrt", [b.one("abs", [b.one("exp", [y])])])])
    m = match(chain("work", ["sqrt", "abs"], op.exp(x)), graph, graph.nodes[-1])
    assert isinstance(m, Match)
    assert [node.op for node in m.chains["work"]] == ["abs", "sqrt"]


def test_an_output_of_a_node_with_several() -> None:
    b = GraphBuilder("g")
    y = b.input("x", X)
    top, where = b.node("topk", [y], {"k": 2})
    graph = b.finish([b.one("neg", [where]), top])
    ids = op.topk(x, k=Attr("k"))
    m = match(op.neg(ids.output(1)), graph, graph.nodes[-1])
    assert isinstance(m, Match)
    assert m["k"] == 2
    assert isinstance(match(op.neg(ids), graph, graph.nodes[-1]), Miss)


def test_one_and_true_are_different_attributes() -> None:
    graph = norm()
    assert isinstance(match(op.mean(x, keepdim=1), graph, graph.nodes[1]), Miss)
    assert isinstance(match(op.mean(x, keepdim=True), graph, graph.nodes[1]), Match)


# --- Properties of the matcher on random patterns in random graphs ------------------------------

UNARY = ("abs", "exp", "neg", "sigmoid", "tanh", "cos")
SCALED = ("add", "mul", "pow")
BINARY = ("add", "mul", "sub", "div", "maximum")


@dataclass
class Planted:
    """A pattern, and an instance of it in the graph that ``b`` builds.

    Attributes:
        variables: what the pattern's variables must stand for.
        nodes: the instance's values that nodes of the pattern make, the root last.
    """

    rng: Random
    b: GraphBuilder
    pool: list[Value]
    variables: dict[str, Value] = field(default_factory=dict)
    nodes: list[Value] = field(default_factory=list)

    def grow(self, depth: int) -> tuple[Pattern, Callable[[], Value]]:
        """A random pattern, and what builds an instance of it; equal variables share a value."""
        rng = self.rng
        kind = rng.randrange(5) if depth else 0
        if kind == 0:
            name = f"v{rng.randrange(4)}"
            return Var(name), lambda: self.variables.setdefault(name, rng.choice(self.pool))
        if kind == 1:
            name = rng.choice(UNARY)
            inner, make = self.grow(depth - 1)
            return Op(name, (inner,)), lambda: self.make(name, [make()])
        if kind == 2:
            name, scalar = rng.choice(SCALED), rng.choice((2.0, 3.0, 0.5))
            inner, make = self.grow(depth - 1)
            pattern = Op(name, (inner,), {"scalar": scalar, "reverse": False})
            return pattern, lambda: self.make(name, [make()], {"scalar": scalar})
        if kind == 3:
            inner, make = self.grow(depth - 1)
            casts = rng.random() < 0.5
            return maybe.cast(inner), lambda: self.cast(make()) if casts else make()
        name = rng.choice(BINARY)
        (left, make_left), (right, make_right) = self.grow(depth - 1), self.grow(depth - 1)

        def make() -> Value:
            operands = [make_left(), make_right()]
            if name in COMMUTATIVE and rng.random() < 0.5:
                operands.reverse()
            return self.make(name, operands)

        return Op(name, (left, right)), make

    def make(self, op: str, inputs: list[Value], attrs: dict[str, float] | None = None) -> Value:
        if self.rng.random() < 0.3:  # a decoy of the same operator beside it
            self.b.one(op, inputs[::-1], attrs)
        self.nodes.append(self.b.one(op, inputs, attrs))
        return self.nodes[-1]

    def cast(self, value: Value) -> Value:
        return self.b.one("cast", [value], {"dtype": DType.F32})


def planted(seed: int, depth: int = 4) -> tuple[Op, Planted]:
    """A pattern whose root is an operator, planted among random nodes."""
    rng = Random(seed)
    b = GraphBuilder("g")
    pool = [b.input(name, X) for name in "xyzw"]
    for _ in range(rng.randrange(20)):
        pool.append(b.one(rng.choice(UNARY), [rng.choice(pool)]))
        pool.append(b.one(rng.choice(BINARY), [rng.choice(pool), rng.choice(pool)]))
    plant = Planted(rng, b, pool)
    while True:
        pattern, make = plant.grow(depth)
        if isinstance(pattern, Op) and size(pattern) >= 2:
            make()
            return pattern, plant
        plant.variables.clear()


def everything(b: GraphBuilder) -> Graph:
    return b.finish([value for node in b.nodes for value in node.outputs])


def holds_by_definition(pattern: Pattern, value: Value, graph: Graph) -> list[dict[str, Value]]:
    """All ways in which a pattern holds, by brute force; what the matcher must agree with."""
    if isinstance(pattern, Var):
        return [{pattern.name: value}]
    if isinstance(pattern, Either):
        return [way for p in pattern.options for way in holds_by_definition(p, value, graph)]
    assert isinstance(pattern, Op)
    node = graph.producers.get(value)
    if node is None or node.op != pattern.name or len(node.inputs) != len(pattern.inputs):
        return []
    if any(node.attrs.get(name) != wanted for name, wanted in pattern.attrs.items()):
        return []
    orders = [node.inputs, node.inputs[::-1]] if node.op in COMMUTATIVE else [node.inputs]
    found = []
    for order in orders:
        ways: list[dict[str, Value]] = [{}]
        for inner, operand in zip(pattern.inputs, order, strict=True):
            more = holds_by_definition(inner, operand, graph)
            ways = [
                {**old, **new}
                for old in ways
                for new in more
                if all(old.get(name, bound) is bound for name, bound in new.items())
            ]
        found.extend(ways)
    return found


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_planted_pattern_is_found_there_and_wherever_else_it_holds(seed: int) -> None:
    pattern, plant = planted(seed)
    graph = everything(plant.b)
    root = graph.producers[plant.nodes[-1]]
    m = match(pattern, graph, root)
    assert isinstance(m, Match)
    assert m.root is root
    for node in graph.nodes:
        ways = holds_by_definition(pattern, node.output, graph)
        found = match(pattern, graph, node)
        assert isinstance(found, Match) == bool(ways)
        if isinstance(found, Match):
            assert dict(found.values) in ways
            assert len(set(found.nodes)) == len(found.nodes)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_miss_names_what_was_changed(seed: int) -> None:
    """One node of a chain gets another operator or number; everything below it still matches."""
    rng = Random(seed)
    length = rng.randrange(2, 9)
    kinds = [rng.choice(UNARY) if rng.random() < 0.5 else "" for _ in range(length)]
    where = rng.randrange(length - 1)
    b = GraphBuilder("g")
    value = b.input("x", X)
    pattern: Pattern = Var("x")
    changed = value
    for i, kind in enumerate(kinds):
        number = float(i + 2)
        if kind:
            actual = "floor" if i == where else kind
            value = b.one(actual, [value])
            pattern = Op(kind, (pattern,))
        else:
            value = b.one("mul", [value], {"scalar": -number if i == where else number})
            pattern = Op("mul", (pattern,), {"scalar": number})
        changed = value if i == where else changed
        if rng.random() < 0.4:
            value = b.one("cast", [value], {"dtype": DType.F32})
            pattern = maybe.cast(pattern)
    graph = everything(b)
    miss = match(pattern, graph, graph.producers[value])
    assert isinstance(miss, Miss)
    assert miss.matched == length - 1 - where
    assert miss.culprits == (changed,)
    assert str(changed) in miss.reason


class Never(RewriteRule):
    """The norm, under a sine that no graph here has."""

    def pattern(self, x: Var) -> Pattern:
        return either(op.mul(NORM, op.sin(x)), op.add(op.sin(x), NORM))

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        return m.x


def steps_of(layers: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many values the matcher looks at in a pass over that many norms and residuals."""
    b = GraphBuilder("g")
    value = b.input("x", X)
    for _ in range(layers):
        squares = b.one("pow", [value], {"scalar": 2.0})
        mean = b.one("mean", [squares], {"dims": [1], "keepdim": True})
        root = b.one("rsqrt", [b.one("add", [mean], {"scalar": 1e-5})])
        normed = b.one("mul", [value, root])
        value = b.one("add", [value, b.one("mul", [normed, normed])])
    graph = b.finish([value])
    count = 0
    plain = _Matcher.value

    def counting(self: _Matcher, *args: Any) -> Any:
        nonlocal count
        count += 1
        return plain(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(_Matcher, "value", counting)
        RulePass("never", [Never()])(graph, PassContext())
    return count


def test_the_time_of_a_pass_is_linear_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, fourth = (steps_of(layers, monkeypatch) for layers in (50, 100, 200))
    assert fourth - second == 2 * (second - first)
    assert first < 50 * 200
