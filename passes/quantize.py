"""Give the weights of linear maps and embeddings eight or four bits.

before:  %e = embed(%ids, @table);  %y = linear(%x, @w, @b)
after:   %q, %s = quantize_weight(@w);  %y = quantized_linear(%x, %q, %s, @b)
         %p, %r = quantize_weight(@table);  %e = quantized_embed(%ids, %p, %r)

A weight is rounded once, when compiling, since all that makes it is constant; one that an embedding
and a linear map share is rounded once for both. Numbers change: by what rounding the weights, and
the rows that they meet, takes away. A CPU multiplies integers, so there the rows are rounded too; a
GPU is bound by reading weights and keeps the rows.

What stays as it is: norms and biases, which are small and reach every number; routers, where a
rounding error sends a token to another expert; experts and weights per head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.errors import UsageError
from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_pointwise, is_view
from graphopt.ir.types import TensorType, nbytes
from graphopt.ledger import Verdict, accept, refuse
from graphopt.packing import PANEL
from graphopt.quantization import quant_of

from .constants import constant_values, constants_first
from .hoist import why_not_folded
from .manager import PassContext, PassResult, place_of

# What a user may ask for, and the bits it means.
BITS = {"int8": 8, "int4": 4}
READERS = frozenset({"linear", "embed"})
ROUTING = frozenset({"moe_router", "topk", "argmax", "sort"})
KEPT = {
    "moe_experts": "weights of experts are kept as they are: no kernel reads them in few bits",
    "matmul": "weights of a batched product are kept as they are: no kernel reads them in few bits",
}


class Quantize:
    """The pass.

    Args:
        kind: ``int8`` or ``int4``.
        weight_only: whether the rows that meet a weight are kept as they are.

    Raises:
        UsageError: there is no such kind.
    """

    name = "quantize"
    requires = frozenset({"linear maps raised", "biases folded"})
    ensures: frozenset[str] = frozenset()

    def __init__(self, kind: str, *, weight_only: bool = False) -> None:
        if kind not in BITS:
            raise UsageError("no such quantization", got=kind, expected=", ".join(BITS))
        self.quant = quant_of(BITS[kind])
        self.weight_only = weight_only

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with quantized weights."""
        ordered = constants_first(graph)
        constants = constant_values(ordered)
        chosen: set[Value] = set()
        for weight, readers in _weights(ordered, constants):
            verdict = self._check(ordered, weight, readers, constants)
            if context.decide(self.name, f"{place_of(readers[0])} {weight}", verdict):
                chosen.add(weight)
        if not chosen:
            return PassResult(graph, False)
        rewriter = Rewriter(ordered)
        rounded: dict[Value, tuple[Value, Value]] = {}
        for node in ordered.nodes:
            if node.op not in READERS or node.inputs[1] not in chosen:
                rewriter.copy(node)
                continue
            weight = node.inputs[1]
            if weight not in rounded:
                made = rewriter.node("quantize_weight", [weight], self._attrs(), loc=node.loc)
                rounded[weight] = made[0], made[1]
            self._rewrite(rewriter, node, rounded[weight])
        return PassResult(rewriter.finish(), True)

    def _attrs(self) -> dict[str, int]:
        return {"bits": self.quant.bits, "group": self.quant.group}

    def _rewrite(self, rewriter: Rewriter, node: Node, weight: tuple[Value, Value]) -> None:
        first, rest = node.inputs[0], node.inputs[2:]
        attrs = self._attrs()
        if node.op == "linear":
            given = {**attrs, "weight_only": self.weight_only}
            now = rewriter.one("quantized_linear", [first, *weight, *rest], given, loc=node.loc)
        else:
            type_ = node.output.type
            dtype = {"dtype": type_.dtype} if isinstance(type_, TensorType) else {}
            scale = {"scale": node.attrs["scale"]}
            now = rewriter.one(
                "quantized_embed", [first, *weight], {**attrs, **dtype, **scale}, loc=node.loc
            )
        rewriter.replace(node.output, now)

    def _check(
        self, graph: Graph, weight: Value, readers: Sequence[Node], constants: frozenset[Value]
    ) -> Verdict:
        """Whether to round a constant that some nodes read."""
        kept = next((node for node in readers if node.op in KEPT), None)
        if kept is not None:
            return refuse(KEPT[kept.op], weight)
        odd = [node for node in readers if node.op not in READERS or _misplaced(node, weight)]
        if odd or weight in graph.outputs:
            return refuse("something else reads it too, and it would be kept twice", weight, *odd)
        if all(node.inputs[0] in constants for node in readers):
            return refuse("all that reads it is a constant: it is computed once", weight)
        if any(_routes(graph, node.output) for node in readers):
            return refuse("its result chooses experts, which rounding would change", weight)
        sizes = _sizes(weight)
        if sizes is None:
            return refuse("it is no matrix", weight)
        rows, columns, before = *sizes, _bytes(weight)
        panels = -(-rows // PANEL)
        after = panels * self.quant.panel_bytes(columns)
        if after >= panels * PANEL * (before // rows):
            return refuse("its rows are too short to become smaller", weight)
        made = rows * (columns + 2 * self.quant.groups(columns))
        if reason := why_not_folded(graph, [weight], readers, made_bytes=made):
            return refuse(f"it would be rounded in every step: {reason}", weight)
        return accept(
            f"{self.quant.bits} bits in groups of {self.quant.group}",
            saves_bytes=max(0, before - after),
        )


def _sizes(weight: Value) -> tuple[int, int] | None:
    """Rows and columns of a matrix of known size."""
    match weight.type:
        case TensorType(shape=(int(rows), int(columns))) if rows and columns:
            return rows, columns
    return None


def _bytes(weight: Value) -> int:
    """Bytes of a constant."""
    size = nbytes(weight.type)
    return size if isinstance(size, int) else 0


def _weights(graph: Graph, constants: frozenset[Value]) -> Iterator[tuple[Value, tuple[Node, ...]]]:
    """The constants that stand where a weight does, in running order, and all that reads each."""
    seen: set[Value] = set()
    for node in graph.nodes:
        if node.output in constants or node.op not in (*READERS, *KEPT):
            continue
        for value in node.inputs[3:5] if node.op == "moe_experts" else node.inputs[1:2]:
            if value in constants and value not in seen:
                seen.add(value)
                yield value, graph.users[value]


def _misplaced(node: Node, weight: Value) -> bool:
    """Whether a node reads ``weight`` elsewhere than as its weight."""
    return any(value is weight for value in (node.inputs[0], *node.inputs[2:]))


def _routes(graph: Graph, result: Value) -> bool:
    """Whether a linear map's result, or pointwise work on it, chooses experts."""
    reached, seen = [result], {result}
    while reached:
        value = reached.pop()
        for node in graph.users.get(value, ()):
            if node.op in ROUTING:
                return True
            if is_pointwise(node.op) or is_view(node.op) or node.op == "softmax":
                reached += [one for one in node.outputs if one not in seen]
                seen.update(node.outputs)
    return False
