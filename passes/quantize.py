"""Give the weights of linear maps, embeddings and experts eight or four bits, or fp8.

before:  %e = embed(%ids, @table);  %y = linear(%x, @w, @b)
after:   %q, %s = quantize_weight(@w);  %y = quantized_linear(%x, %q, %s, @b)
         %p, %r = quantize_weight(@table);  %e = quantized_embed(%ids, %p, %r)

before:  %y = moe_experts(%x, %ids, %shares, @first, @second) {transposed = true}
after:   %t = permute(@first);  %u = permute(@second)
         %q, %s = quantize_weight(%t);  %p, %r = quantize_weight(%u)
         %y = quantized_experts(%x, %ids, %shares, %q, %s, %p, %r)

before:  %y = linear(%x, @w, @b)
after:   %q, %s = fp8_weight(@w);  %y = fp8_linear(%x, %q, %s, @b)

A weight is rounded once, when compiling, since all that makes it is constant; one that an embedding
and a linear map share is rounded once for both. Numbers change: by what rounding the weights, and
the rows that they meet, takes away. A CPU multiplies integers, so there the rows are rounded too; a
GPU is bound by reading weights and keeps the rows, unless ``w8a8`` or fp8 is asked for, with which
its tensor cores are twice as fast.

What stays as it is: norms and biases, which are small and reach every number; routers, where a
rounding error sends a token to another expert; weights per head; experts on a GPU. ``kept_notes``
says which they were, and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from graphopt.ir.builder import Rewriter
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.ops import is_pointwise, is_view
from graphopt.ir.types import TensorType, nbytes
from graphopt.ledger import Entry, Verdict, accept, refuse
from graphopt.packing import PANEL

from .constants import constant_values, constants_first
from .hoist import why_not_folded
from .manager import PassContext, PassResult, place_of
from .quantize_schemes import Rounded, is_transposed, scheme_of

RULE = "quantize"
ROUTING = frozenset({"moe_router", "topk", "argmax", "sort"})
PER_HEAD = "weights of a batched product are kept as they are: no kernel reads them in few bits"
EXPERTS = "weights of experts are kept as they are: no kernel of a GPU reads them in few bits"
_NAMED = 3  # weights that a note names
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class Quantize:
    """The pass.

    Args:
        kind: ``int8``, ``int4``, ``w8a8``, ``fp8`` or ``fp8-tensor``.
        weight_only: whether the first two keep the rows that meet a weight as they are, as suits
            a GPU.

    Raises:
        UsageError: there is no such kind.
    """

    name = RULE
    requires = frozenset({"linear maps raised", "biases folded"})
    ensures: frozenset[str] = frozenset()

    def __init__(self, kind: str, *, weight_only: bool = False) -> None:
        self.scheme = scheme_of(kind, weight_only=weight_only)

    def __call__(self, graph: Graph, context: PassContext) -> PassResult:
        """The graph with quantized weights."""
        ordered = constants_first(graph)
        constants = constant_values(ordered)
        chosen: set[Value] = set()
        readers_of = self.scheme.readers
        for weight, readers in _weights(ordered, constants, readers_of):
            verdict = self._check(ordered, weight, readers, constants)
            if context.decide(self.name, f"{place_of(readers[0])} {weight}", verdict):
                chosen.add(weight)
        if not chosen:
            return PassResult(graph, False)
        rewriter = Rewriter(ordered)
        rounded: dict[tuple[Value, bool], Rounded] = {}
        for node in ordered.nodes:
            weights = [node.inputs[place] for place in readers_of.get(node.op, ())]
            if not weights or not chosen.issuperset(weights):
                rewriter.copy(node)
                continue
            for weight in weights:
                key = weight, is_transposed(node)
                if key not in rounded:
                    rounded[key] = self.scheme.rounded(rewriter, weight, node)
            found = [rounded[one, is_transposed(node)] for one in weights]
            rewriter.replace(node.output, self.scheme.layer(rewriter, node, found))
        return PassResult(rewriter.finish(), True)

    def _check(
        self, graph: Graph, weight: Value, readers: Sequence[Node], constants: frozenset[Value]
    ) -> Verdict:
        """Whether to round a constant that some nodes read.

        A layer of experts has both its weights rounded, or neither.
        """
        verdict = self._check_alone(graph, weight, readers, constants)
        experts = [node for node in readers if node.op == "moe_experts"]
        for other in dict.fromkeys(v for node in experts for v in node.inputs[3:5]):
            if verdict.accepted and other is not weight:
                found = self._check_alone(graph, other, graph.users[other], constants)
                if not found.accepted:
                    return refuse(f"its experts' other layer is kept: {found.reason}", other)
        return verdict

    def _check_alone(
        self, graph: Graph, weight: Value, readers: Sequence[Node], constants: frozenset[Value]
    ) -> Verdict:
        """Whether to round a constant, for its own sake."""
        if weight not in constants:
            return refuse("it is made in the step", weight)
        if any(node.op == "matmul" for node in readers):
            return refuse(PER_HEAD, weight)
        if not self.scheme.experts and any(node.op == "moe_experts" for node in readers):
            return refuse(EXPERTS, weight)
        known = self.scheme.readers
        odd = [
            node
            for node in readers
            if node.op not in known or _misplaced(node, weight, known[node.op])
        ]
        if odd or weight in graph.outputs:
            return refuse("something else reads it too, and it would be kept twice", weight, *odd)
        if all(node.inputs[0] in constants for node in readers):
            return refuse("all that reads it is a constant: it is computed once", weight)
        if any(_chooses_experts(graph, node) for node in readers):
            return refuse("its result chooses experts, which rounding would change", weight)
        sizes = _sizes(weight, readers)
        if sizes is None:
            return refuse("it is no matrix", weight)
        matrices, rows, columns, before = *sizes, _bytes(weight)
        after = self.scheme.nbytes(matrices, rows, columns)
        if after >= before // rows * -(-rows // PANEL) * PANEL:  # rows of padding in both
            return refuse("its rows are too short to become smaller", weight)
        made = self.scheme.made_bytes(matrices, rows, columns)
        if reason := why_not_folded(graph, [weight], readers, made_bytes=made):
            return refuse(f"it would be rounded in every step: {reason}", weight)
        return accept(
            self.scheme.words,
            saves_bytes=max(0, before - after),
        )


def kept_notes(entries: Iterable[Entry]) -> list[str]:
    """What the pass left as it is, a sentence for each reason; nothing if it did not run."""
    kept: dict[str, list[str]] = {}
    for entry in entries:
        if entry.rule == RULE and not entry.applied:
            kept.setdefault(entry.reason, []).append(_name(entry))
    notes = []
    for reason, names in kept.items():
        some = list(dict.fromkeys(names))
        more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
        count = "1 weight is" if len(names) == 1 else f"{len(names)} weights are"
        notes.append(f"{count} not rounded ({', '.join(some[:_NAMED])}{more}): {reason}")
    return notes


def _name(entry: Entry) -> str:
    """The weight that an entry is about, or the module if it has no name; ``*`` for each number."""
    place, _, weight = entry.where.rpartition(" ")
    name = weight[1:] if weight.startswith("@") else place.rpartition(" ")[2]
    return _NUMBER.sub("*", name)


def _sizes(weight: Value, readers: Sequence[Node]) -> tuple[int, int, int] | None:
    """How many matrices of known size a weight is, and their rows and columns."""
    match weight.type:
        case TensorType(shape=(int(rows), int(columns))) if rows and columns:
            return 1, rows, columns
        case TensorType(shape=(int(matrices), int(rows), int(columns))) if (
            matrices and rows and columns
        ):
            turned = {is_transposed(node) for node in readers}
            if len(turned) == 1:
                return (matrices, columns, rows) if True in turned else (matrices, rows, columns)
    return None


def _bytes(weight: Value) -> int:
    """Bytes of a constant."""
    size = nbytes(weight.type)
    return size if isinstance(size, int) else 0


def _weights(
    graph: Graph, constants: frozenset[Value], known: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[Value, tuple[Node, ...]]]:
    """The constants that stand where a weight does, in running order, and all that reads each."""
    seen: set[Value] = set()
    for node in graph.nodes:
        places = known.get(node.op, (1,) if node.op == "matmul" else ())
        if node.output in constants:
            continue
        for value in (node.inputs[place] for place in places):
            if value in constants and value not in seen:
                seen.add(value)
                yield value, graph.users[value]


def _misplaced(node: Node, weight: Value, known: tuple[int, ...]) -> bool:
    """Whether a node reads ``weight`` elsewhere than as its weight, or as two of them."""
    places = [place for place, value in enumerate(node.inputs) if value is weight]
    return len(places) > 1 or places[0] not in known


def _chooses_experts(graph: Graph, node: Node) -> bool:
    """Whether a linear map's result, or pointwise work on it, chooses experts."""
    if node.op == "moe_experts":
        return False
    reached, seen = [node.output], {node.output}
    while reached:
        value = reached.pop()
        for node in graph.users.get(value, ()):
            if node.op in ROUTING:
                return True
            if is_pointwise(node.op) or is_view(node.op) or node.op == "softmax":
                reached += [one for one in node.outputs if one not in seen]
                seen.update(node.outputs)
    return False
