"""A decoder of three layers, and rules that are wrong on purpose, each in a way of its own."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.builder import GraphBuilder, Rewriter, rewrite_nodes
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.manager import Pass, PassContext, PassResult
from graphopt.passes.match import Attr, Match, Pattern, Var, op
from graphopt.passes.rules import RewriteRule, RulePass

VOCAB, HIDDEN, HEADS, SIZE, LAYERS, EPS = 31, 16, 2, 8, 3, 1e-6
T, R, S, P = sym("T"), sym("R"), sym("S"), sym("P")


def decoder(dtype: DType = DType.F32, *, positions: int = 64) -> Graph:
    """Norms and gates written out, a subtraction of neighbours, positions from a table."""
    b = GraphBuilder("small")

    def weight(name: str, *shape: int) -> Value:
        return b.weight(name, TensorType(dtype, shape))

    def project(x: Value, name: str, rows: int, columns: int) -> Value:
        return b.one("linear", [x, weight(name, rows, columns)])

    token_ids, places, rows, slots = (
        b.input(name, TensorType(DType.I64, (size,)))
        for name, size in (("token_ids", T), ("positions", T), ("rows", R), ("slots", T))
    )
    index = [
        b.input(name, TensorType(DType.I32, shape))
        for name, shape in (("starts", (S + 1,)), ("lengths", (S,)), ("tables", (S, P)))
    ]
    state = b.input("kv", StateType("kv", (LayerState(HEADS, SIZE, SIZE, dtype),) * LAYERS))
    hidden = b.one("embed", [token_ids, weight("embed", VOCAB, HIDDEN)])
    hidden = b.one("add", [hidden, b.one("embed", [places, weight("places", positions, HIDDEN)])])
    for layer in range(LAYERS):
        normed = _norm(b, hidden, weight(f"{layer}.norm", HIDDEN))
        q, k, v = (
            b.one(
                "reshape",
                [project(normed, f"{layer}.{name}", HEADS * SIZE, HIDDEN)],
                {"shape": (T, HEADS, SIZE)},
            )
            for name in "qkv"
        )
        q = b.one("sub", [q, b.one("mul", [k], {"scalar": 0.5})])
        state = b.one("kv_write", [state, k, v, slots], {"layer": layer})
        mixed = b.one("attention", [q, state, *index], {"layer": layer, "scale": 0.5})
        flat = b.one("reshape", [mixed], {"shape": (T, HEADS * SIZE)})
        hidden = b.one("add", [hidden, project(flat, f"{layer}.o", HIDDEN, HEADS * SIZE)])
        up = project(hidden, f"{layer}.up", 24, HIDDEN)
        gated = b.one("mul", [up, b.one("sigmoid", [up])])
        hidden = b.one("add", [hidden, project(gated, f"{layer}.down", HIDDEN, 24)])
    last = b.one("index_select", [hidden, rows], {"dim": 0})
    return b.finish([project(last, "head", VOCAB, HIDDEN)])


def _norm(b: GraphBuilder, x: Value, weight: Value) -> Value:
    wide = b.one("cast", [x], {"dtype": DType.F32})
    mean = b.one("mean", [b.one("pow", [wide], {"scalar": 2.0})], {"dims": (1,), "keepdim": True})
    scale = b.one("rsqrt", [b.one("add", [mean], {"scalar": EPS})])
    narrow = b.one("cast", [b.one("mul", [wide, scale])], {"dtype": x.type.dtype})  # type: ignore[union-attr]
    return b.one("mul", [weight, narrow])


class Gate(RewriteRule):
    """x * sigmoid(x) is silu(x). This one is right."""

    def pattern(self, x: Var) -> Pattern:
        return op.mul(x, op.sigmoid(x))

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        return new.one("silu", [m.x], loc=m.loc)


class SwappedSub(RewriteRule):
    """x - y * c becomes (y * c - x)."""

    def pattern(self, x: Var, y: Var) -> Pattern:
        return op.sub(x, op.mul(y, scalar=Attr("c")))

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        scaled = new.one("mul", [m.y], {"scalar": m["c"]})
        return new.one("add", [scaled, new.one("neg", [m.x])])


class LostEpsilon(RewriteRule):
    """rsqrt(x + eps) becomes rsqrt(x)."""

    def pattern(self, x: Var) -> Pattern:
        return op.rsqrt(op.add(x, scalar=Attr("eps")))

    def rewrite(self, m: Match, new: Rewriter) -> Value:
        return new.one("rsqrt", [m.x])


@dataclass
class OnePlace:
    """A pass that touches every silu, and is wrong at one of them.

    Attributes:
        place: the module-like prefix of the weight at the place where it is wrong.
    """

    place: str
    name: str = "one-place"
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        def visit(rewriter: Rewriter, node: Node) -> bool:
            if node.op != "silu" or not context.housekeep("silu-again", node):
                return False
            maker = graph.producers[node.inputs[0]]
            wrong = maker.inputs[1].name.startswith(self.place)
            gate = rewriter.one("sigmoid", [node.inputs[0]])
            if wrong:
                gate = rewriter.one("mul", [gate], {"scalar": 1.01})
            rewriter.replace(node.output, rewriter.one("mul", [node.inputs[0], gate]))
            return True

        return PassResult(rewrite_nodes(graph, visit), True)


@dataclass
class Raises:
    """A pass that stumbles over the second node of a kind."""

    op: str = "sigmoid"
    name: str = "raises"
    requires: frozenset[str] = frozenset({"gates"})
    ensures: frozenset[str] = frozenset()

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        for node in graph.nodes:
            if node.op != self.op or not context.housekeep("stumble", node):
                continue
            if graph.producers[node.inputs[0]].inputs[1].name == "1.up":
                raise ValueError(f"no idea what {node.output} is")
        return PassResult(graph, False)


@dataclass
class IllTyped:
    """A pass that says bf16 where the operator gives f32."""

    name: str = "ill-typed"
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        nodes = []
        for node in graph.nodes:
            if node.op == "pow" and context.housekeep("shorten", node):
                wrong = Value(node.output.name, TensorType(DType.BF16, (T, HIDDEN)))
                node = Node(node.op, node.inputs, (wrong,), node.attrs, node.loc)
            nodes.append(node)
        return PassResult(
            Graph(graph.name, graph.inputs, graph.weights, tuple(nodes), graph.outputs), True
        )


@dataclass
class Silent:
    """A pass that negates the output and asks nobody."""

    name: str = "silent"
    requires: frozenset[str] = frozenset()
    ensures: frozenset[str] = frozenset()

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        rewriter = Rewriter(graph)
        for node in graph.nodes:
            rewriter.copy(node)
        return PassResult(rewriter.finish([rewriter.one("neg", [graph.outputs[0]])]), True)


def gates() -> Pass:
    """The pass that is right."""
    return RulePass("gates", [Gate()], ensures=["gates"])
