"""Rules are applied where they fit, and say where they nearly did."""

from graphopt.ir.builder import GraphBuilder, Rewriter
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict, accept, refuse
from graphopt.passes.manager import PassContext
from graphopt.passes.match import Attr, Match, Op, Pattern, Var, op
from graphopt.passes.rules import RewriteRule, RulePass, pattern_of

X = TensorType(DType.F32, (5,))


class DropDoubleNegation(RewriteRule):
    def pattern(self, x: Var) -> Pattern:
        return op.neg(op.neg(x))

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        return m.x


class ScaleOfSigmoid(RewriteRule):
    """x * sigmoid(x) * 2, which is no operator; it refuses other scales."""

    def pattern(self, x: Var) -> Pattern:
        return op.mul(op.mul(x, op.sigmoid(x)), scalar=Attr("scale"))

    def check(self, m: Match) -> Verdict:
        if m["scale"] != 2.0:
            return refuse("the scale is not 2", m.root.output)
        return accept(saves_bytes=8)

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        return new.one("mul", [new.one("silu", [m.x])], {"scalar": 2.0}, loc=m.loc)


def negations(count: int) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", X)
    for _ in range(count):
        x = b.one("neg", [x])
    return b.finish([x])


def scaled(scale: float, *, other: bool = False) -> Graph:
    b = GraphBuilder("g")
    x, y = b.input("x", X), b.input("y", X)
    gate = b.one("sigmoid", [y if other else x])
    return b.finish([b.one("mul", [b.one("mul", [gate, x])], {"scalar": scale})])


def test_the_name_is_the_class_in_words() -> None:
    assert DropDoubleNegation().name == "drop-double-negation"
    pattern = pattern_of(DropDoubleNegation())
    assert isinstance(pattern, Op)
    assert pattern.inputs[0].inputs[0] == Var("x")  # type: ignore[attr-defined]


def test_a_match_is_rewritten_and_written_down() -> None:
    context = PassContext()
    result = RulePass("negations", [DropDoubleNegation()])(negations(4), context)
    assert result.modified
    assert len(result.graph.nodes) == 0
    assert [entry.applied for entry in context.ledger.entries] == [True] * 3


def test_nothing_fits() -> None:
    graph = negations(1)
    result = RulePass("negations", [DropDoubleNegation()])(graph, PassContext())
    assert (result.graph, result.modified) == (graph, False)


def test_fuel_stops_rewrites() -> None:
    result = RulePass("negations", [DropDoubleNegation()])(negations(4), PassContext(fuel=0))
    assert len(result.graph.nodes) == 4


def test_a_refusal_has_its_reason_and_culprits() -> None:
    context = PassContext()
    result = RulePass("gates", [ScaleOfSigmoid()])(scaled(3.0), context)
    assert not result.modified
    (entry,) = context.ledger.entries
    assert (entry.applied, entry.reason, entry.culprits) == (False, "the scale is not 2", ("%2",))


def test_a_near_miss_says_what_stopped_it() -> None:
    context = PassContext()
    RulePass("gates", [ScaleOfSigmoid()])(scaled(2.0, other=True), context)
    (entry,) = context.ledger.entries
    assert entry.reason == "nearly: x is %x elsewhere, not %y"


def test_leftovers_are_written_down() -> None:
    context = PassContext()
    rules = RulePass("gates", [ScaleOfSigmoid()], leftovers={"sigmoid": "part of no gate"})
    rules(scaled(2.0), context)
    assert [entry.applied for entry in context.ledger.entries] == [True]
    rules(scaled(3.0), context)
    assert context.ledger.entries[-1].reason == "sigmoid is part of no gate"


class Gate(RewriteRule):
    """A whole: a product with a sigmoid."""

    def pattern(self, x: Var, y: Var) -> Pattern:
        return op.mul(op.sigmoid(x), y)

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        return new.one("maximum", [m.x, m.y])


class Part(RewriteRule):
    """A part of it."""

    def pattern(self, x: Var) -> Pattern:
        return op.sigmoid(x)

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        return new.one("tanh", [m.x])


def gated(*, returned: bool = False) -> Graph:
    b = GraphBuilder("g")
    x, y = b.input("x", X), b.input("y", X)
    part = b.one("sigmoid", [x])
    whole = b.one("mul", [part, y])
    return b.finish([whole, part] if returned else [whole])


def rewritten(graph: Graph, *rules: RewriteRule) -> tuple[list[str], list[str]]:
    context = PassContext()
    result = RulePass("gates", rules)(graph, context)
    return [node.op for node in result.graph.nodes], [e.rule for e in context.ledger.entries]


def test_a_whole_comes_before_its_parts() -> None:
    assert rewritten(gated(), Gate(), Part()) == (["maximum"], ["gate"])
    # The pattern of the whole is looked for in the graph before the pass, so its part is there.
    assert rewritten(gated(), Part(), Gate()) == (["maximum"], ["part", "gate"])


def test_a_part_that_is_needed_by_itself_is_rewritten_too() -> None:
    assert rewritten(gated(returned=True), Gate(), Part()) == (
        ["tanh", "maximum"],
        ["gate", "part"],
    )


def test_what_a_match_reads_is_not_gone() -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", X), b.input("y", X)
    inner = b.one("mul", [b.one("sigmoid", [x]), y])
    graph = b.finish([b.one("mul", [b.one("sigmoid", [inner]), inner])])
    operators, applied = rewritten(graph, Gate(), Part())
    assert operators == ["maximum", "maximum"]
    assert applied == ["gate", "gate"]
