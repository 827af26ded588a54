"""Prove that nothing but attention lets one token of a step see another.

A packed step holds tokens of many sequences. So every value is either the same whatever the step
holds, or one entry per token along one dimension, and an operator may change the entry of a token
only by that token's other entries. ``check_locality`` follows that dimension through the graph;
a sum over it, a sort along it, a position told by the order in the batch: each is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from graphopt.errors import UnsupportedError
from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.ops import OPS, is_aten
from graphopt.ir.ops_state import reaches_of
from graphopt.ir.shape import Dim, Expr, product, sym, symbols
from graphopt.ir.types import StateType, TensorType


@dataclass(frozen=True, slots=True)
class Rows:
    """Where a value keeps its tokens: dimension ``axis`` has ``outer * size * inner`` entries.

    ``size`` is ``T`` (tokens of the step) or ``R`` (rows whose logits are wanted); the entries of
    one token are ``inner`` in a row, ``outer`` times over.
    """

    size: str
    axis: int
    outer: Dim = 1
    inner: Dim = 1

    @property
    def entries(self) -> Dim:
        """Size of the dimension."""
        return product((self.outer, sym(self.size), self.inner))


class _Mixes(Exception):  # noqa: N818
    """An operator lets tokens mix; says how."""


_Rule = Callable[["_Locality", Node], "Rows | None"]
# What the entries of an input are, by its name.
_SIZES = {"token_ids": "T", "positions": "T", "slots": "T", "reaches": "T", "rows": "R"}


def check_locality(graph: Graph) -> None:
    """Demands that only attention mixes tokens.

    Raises:
        UnsupportedError: another operator does, or we cannot tell; names it and its source line.
    """
    _Locality(graph).run()


class _Locality:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.rows: dict[Value, Rows | None] = {}

    def run(self) -> None:
        for value in self.graph.inputs:
            size = _SIZES.get(value.name)
            self.rows[value] = Rows(size, 0) if size else None
        for value in self.graph.weights:
            self.rows[value] = None
        for node in self.graph.nodes:
            try:
                _refuse_counts(node)
                found = self.rule(node)(self, node)
                for value in node.outputs:
                    self.rows[value] = self.checked(value, found)
            except _Mixes as reason:
                raise UnsupportedError(
                    "tokens of different sequences would see each other outside attention",
                    where=None if node.loc is None else str(node.loc),
                    got=f"{node.op}({', '.join(str(v.type) for v in node.inputs)}): {reason}",
                    expected="operators that treat every token alone",
                    next="this architecture cannot run in a packed batch as it is written",
                ) from reason

    def rule(self, node: Node) -> _Rule:
        if is_aten(node.op):
            return _foreign
        if OPS[node.op].scalar is not None:
            return _pointwise
        found = _RULES.get(node.op)
        if found is None:
            raise _Mixes("no rule says how it treats tokens")
        return found

    def of(self, value: Value) -> Rows | None:
        return self.rows[value]

    def checked(self, value: Value, found: Rows | None) -> Rows | None:
        """``found``, if the value's shape fits it."""
        if isinstance(value.type, StateType):
            return None
        shape = value.type.shape
        for axis, size in enumerate(shape):
            varies = symbols(size) & {"T", "R"}
            if varies and (found is None or found.axis != axis):
                raise _Mixes(f"dimension {axis} of {value.type} is not one entry per token")
        if found is not None and shape[found.axis] != found.entries:
            raise _Mixes(f"{value.type} does not keep all tokens in dimension {found.axis}")
        return found


def _refuse_counts(node: Node) -> None:
    """How many tokens a step holds may give a value its shape, never its contents."""
    for name, attr in node.attrs.items():
        if name != "shape" and _sizes_in(attr) & {"T", "R"}:
            raise _Mixes(f"{name} depends on how many tokens the step holds")


def _sizes_in(attr: Attr) -> frozenset[str]:
    if isinstance(attr, Expr):
        return symbols(attr)
    return frozenset().union(*map(_sizes_in, attr)) if isinstance(attr, tuple) else frozenset()


def _shape(value: Value) -> tuple[Dim, ...]:
    return value.type.shape if isinstance(value.type, TensorType) else ()


def _same(first: Rows | None, second: Rows | None) -> Rows | None:
    """What two operands agree on."""
    if first is None or second is None:
        return first or second
    if first != second:
        raise _Mixes(f"operands keep their tokens differently, {first} and {second}")
    return first


def _pointwise(self: _Locality, node: Node) -> Rows | None:
    return _aligned(self, node, len(_shape(node.output)))


def _aligned(self: _Locality, node: Node, rank: int) -> Rows | None:
    """Operands that broadcast against each other, aligned at the last dimension."""
    found: Rows | None = None
    for value in node.inputs:
        own = self.of(value)
        if own is not None:
            found = _same(found, replace(own, axis=own.axis + rank - len(_shape(value))))
    return found


def _first(self: _Locality, node: Node) -> Rows | None:
    return self.of(node.inputs[0])


def _along(self: _Locality, node: Node) -> Rows | None:
    """Works along ``dim``, which keeps its place or vanishes."""
    rows, dim = _common(self, node), _int(node, "dim")
    if rows is None:
        return None
    if rows.axis == dim:
        raise _Mixes("works along the tokens")
    vanishes = node.op == "select" or node.attrs.get("keepdim") is False
    return replace(rows, axis=rows.axis - 1) if vanishes and dim < rows.axis else rows


def _common(self: _Locality, node: Node) -> Rows | None:
    found: Rows | None = None
    for value in node.inputs:
        found = _same(found, self.of(value))
    return found


def _dims(self: _Locality, node: Node) -> Rows | None:
    """Reductions over ``dims``, and what moves elements along them."""
    rows, dims = self.of(node.inputs[0]), _ints(node, "dims")
    if rows is None:
        return None
    if rows.axis in dims:
        raise _Mixes("works over all tokens")
    vanish = sum(dim < rows.axis for dim in dims) if node.attrs.get("keepdim") is False else 0
    return replace(rows, axis=rows.axis - vanish)


def _reshape(self: _Locality, node: Node) -> Rows | None:
    rows = self.of(node.inputs[0])
    if rows is None:
        return None
    before, after = _shape(node.inputs[0]), _shape(node.output)
    stride = product((rows.inner, *before[rows.axis + 1 :]))
    for axis, size in enumerate(after):
        if rows.size not in symbols(size):
            continue
        right = product(after[axis + 1 :])
        inner = stride // right if stride % right == 0 else 0
        outer = 0 if inner == 0 else size // product((inner, sym(rows.size)))
        found = Rows(rows.size, axis, outer, inner)
        if found.entries == size:
            return found
    raise _Mixes(f"spreads tokens over {node.output.type}")


def _permute(self: _Locality, node: Node) -> Rows | None:
    rows = self.of(node.inputs[0])
    return None if rows is None else replace(rows, axis=_ints(node, "dims").index(rows.axis))


def _expand(self: _Locality, node: Node) -> Rows | None:
    rows, shape = self.of(node.inputs[0]), _shape(node.output)
    if rows is not None:
        return replace(rows, axis=rows.axis + len(shape) - len(_shape(node.inputs[0])))
    return _uniform(shape)


def _full(self: _Locality, node: Node) -> Rows | None:
    return _uniform(_shape(node.output))


def _uniform(shape: tuple[Dim, ...]) -> Rows | None:
    """The same entry for every token."""
    for axis, size in enumerate(shape):
        for name in ("T", "R"):
            if name in symbols(size):
                return Rows(name, axis, outer=size // sym(name))
    return None


def _slice(self: _Locality, node: Node) -> Rows | None:
    rows = self.of(node.inputs[0])
    if rows is not None and rows.axis == _int(node, "dim"):
        raise _Mixes("takes some of the tokens by their place in the batch")
    return rows


def _split(self: _Locality, node: Node) -> Rows | None:
    return _slice(self, node)


def _nothing(self: _Locality, node: Node) -> Rows | None:
    """Makes data; of a size that depends on the batch it would tell places in it."""
    return None


def _repeat(self: _Locality, node: Node) -> Rows | None:
    rows, repeats = self.of(node.inputs[0]), _int(node, "repeats")
    if rows is not None and rows.axis == _int(node, "dim"):
        return replace(rows, inner=rows.inner * repeats)
    return rows


def _pad(self: _Locality, node: Node) -> Rows | None:
    rows, pads = self.of(node.inputs[0]), node.attrs["pads"]
    count = len(pads) // 2 if isinstance(pads, tuple) else 0
    if rows is not None and rows.axis >= len(_shape(node.inputs[0])) - count:
        place = 2 * (len(_shape(node.inputs[0])) - 1 - rows.axis)
        if isinstance(pads, tuple) and (pads[place] != 0 or pads[place + 1] != 0):
            raise _Mixes("adds entries beside the tokens")
    return rows


def _triangle(self: _Locality, node: Node) -> Rows | None:
    rows = self.of(node.inputs[0])
    if rows is not None and rows.axis >= len(_shape(node.inputs[0])) - 2:
        raise _Mixes("keeps tokens by their place in the batch")
    return rows


def _gather(self: _Locality, node: Node) -> Rows | None:
    """Entries of the first operand, chosen per token by the second."""
    table, *others = (self.of(value) for value in node.inputs)
    chosen: Rows | None = None
    for other in others:
        chosen = _same(chosen, other)
    if table is None and node.op == "gather":
        return chosen
    rows = _same(table, chosen)
    if rows is not None and rows.axis == _int(node, "dim"):
        raise _Mixes("reads or writes entries of other tokens")
    return rows


def _index_select(self: _Locality, node: Node) -> Rows | None:
    table, index = (self.of(value) for value in node.inputs)
    dim = _int(node, "dim")
    if table is None:
        return None if index is None else replace(index, axis=dim)
    if table.axis == dim:
        wanted = node.inputs[1].name == "rows" and node.inputs[1] in self.graph.inputs
        if wanted and table == Rows("T", dim) and index is not None:
            return Rows("R", dim)
        raise _Mixes("picks entries of other tokens")
    if index is not None:
        raise _Mixes("both operands have tokens")
    return table


def _embed(self: _Locality, node: Node) -> Rows | None:
    ids, table = (self.of(value) for value in node.inputs)
    if table is not None:
        raise _Mixes("looks up entries of other tokens")
    return ids


def _layer(trailing: int) -> _Rule:
    """Uses the last dimensions of its first operand; the others are weights."""

    def rule(self: _Locality, node: Node) -> Rows | None:
        rows, rank = self.of(node.inputs[0]), len(_shape(node.inputs[0]))
        if any(self.of(value) is not None for value in node.inputs[1:]):
            raise _Mixes("its weights depend on tokens")
        axes = node.attrs.get("axes", trailing)
        if rows is not None and isinstance(axes, int) and rows.axis >= rank - axes:
            raise _Mixes("works along the tokens")
        return rows

    return rule


def _matmul(self: _Locality, node: Node) -> Rows | None:
    (a, b), rank = node.inputs, len(_shape(node.output))
    left, right = self.of(a), self.of(b)
    ranks = len(_shape(a)), len(_shape(b))
    if min(ranks) < 2:
        if left is None and right is None:
            return None
        raise _Mixes("multiplies vectors")
    if left is not None and left.axis == ranks[0] - 1:
        raise _Mixes("sums over tokens")
    if right is not None and right.axis == ranks[1] - 2:
        raise _Mixes("sums over tokens")
    placed = [
        None if rows is None else replace(rows, axis=rows.axis + rank - own)
        for rows, own in zip((left, right), ranks, strict=True)
    ]
    return _same(*placed)


def _conv1d(self: _Locality, node: Node) -> Rows | None:
    rows = self.of(node.inputs[0])
    if rows is not None and rows.axis != 0:
        raise _Mixes("slides over the tokens")
    return rows


def _per_token(count: int) -> _Rule:
    """The first ``count`` operands have one entry per token in dimension 0, the others none."""

    def rule(self: _Locality, node: Node) -> Rows | None:
        for position, value in enumerate(node.inputs):
            rows = self.of(value)
            if isinstance(value.type, StateType):
                continue
            if position < count and rows not in (None, Rows("T", 0), Rows("R", 0)):
                raise _Mixes(f"operand {position} keeps its tokens elsewhere, {rows}")
            if position >= count and rows is not None:
                raise _Mixes(f"operand {position} depends on tokens")
        return self.of(node.inputs[0])

    return rule


def _attention(self: _Locality, node: Node) -> Rows | None:
    """The queries are one entry per token, and so is how far they see."""
    reaches = reaches_of(node)
    if reaches is not None and self.of(reaches) != Rows("T", 0):
        raise _Mixes("how far tokens see is not one entry per token")
    if any(self.of(value) is not None for value in node.inputs[1:] if value is not reaches):
        raise _Mixes("what all tokens share depends on tokens")
    if self.of(node.inputs[0]) != Rows("T", 0):
        raise _Mixes("queries are not one entry per token")
    return Rows("T", 0)


def _kv_write(self: _Locality, node: Node) -> Rows | None:
    if any(self.of(value) != Rows("T", 0) for value in node.inputs[1:]):
        raise _Mixes("keys, values and slots are not one entry per token")
    return None


def _foreign(self: _Locality, node: Node) -> Rows | None:
    """PyTorch's own operators: pointwise ones are known to be; the others must not see tokens."""
    carried = [value for value in node.inputs if self.of(value) is not None]
    if not carried:
        return None
    parts = node.op.split(".")
    packet = getattr(torch.ops.aten, parts[1], None)
    overload = getattr(packet, parts[2] if len(parts) > 2 else "default", None)
    if overload is not None and torch.Tag.pointwise in overload.tags:
        return _aligned(self, node, len(_shape(node.output)))
    raise _Mixes("nothing is known of how this operator treats tokens")


def _int(node: Node, name: str) -> int:
    value = node.attrs[name]
    if isinstance(value, int):
        return value
    raise _Mixes(f"{name} is not a number")


def _ints(node: Node, name: str) -> list[int]:
    value = node.attrs[name]
    return [item for item in value if isinstance(item, int)] if isinstance(value, tuple) else []


_RULES: Mapping[str, _Rule] = {
    **{
        name: _dims
        for name in ["sum", "mean", "amax", "amin", "prod", "any", "var", "flip", "roll"]
    },
    **{
        name: _along
        for name in [
            "argmax",
            "softmax",
            "log_softmax",
            "cumsum",
            "topk",
            "sort",
            "concat",
            "select",
        ]
    },
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "split": _split,
    "pad_constant": _pad,
    "repeat_interleave": _repeat,
    "full": _full,
    "iota": _nothing,
    "tril": _triangle,
    "triu": _triangle,
    "gather": _gather,
    "scatter": _gather,
    "index_select": _index_select,
    "embed": _embed,
    "one_hot": _first,
    "linear": _layer(1),
    "rms_norm": _layer(1),
    "layer_norm": _layer(1),
    "matmul": _matmul,
    "conv1d": _conv1d,
    "kv_write": _kv_write,
    "attention": _attention,
    "rope": _per_token(3),
    "moe_router": _per_token(1),
    "moe_experts": _per_token(3),
}
