"""Drop the batch dimension of size 1 that every model puts in front of its tokens.

before:  %1: bf16[1, T, 64] = embed(%0, @table);  %2: bf16[1, T, 96] = linear(%1, @w)
after:   %1: bf16[T, 64] = embed(%token_ids, @table);  %2: bf16[T, 96] = linear(%1, @w)

A value may be kept without one of its dimensions of size 1; which one is remembered, and an
operator that cannot do without it gets it back through a reshape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.builder import GraphBuilder, renumbered, without_dead_nodes
from graphopt.ir.graph import Attr, Graph, Node, Value
from graphopt.ir.ops import OPS
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType

from .emitter import Emitter, type_of

# A new value, and the dimension of the old one that it lacks.
_Kept = tuple[Value, int | None]
_Rule = Callable[["_Unbatcher", Node], Sequence[_Kept] | None]


def unbatch(graph: Graph) -> Graph:
    """The same graph without leading dimensions of size 1, where operators let us."""
    return _Unbatcher(graph).run()


class _Unbatcher:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.builder = GraphBuilder(graph.name)
        self.emit = Emitter(self.builder)
        self.kept: dict[Value, _Kept] = {}

    def run(self) -> Graph:
        for value in self.graph.inputs:
            self.kept[value] = (self.builder.adopt_input(value), None)
        for value in self.graph.weights:
            self.kept[value] = (self.builder.adopt_weight(value), None)
        for node in self.graph.nodes:
            self.emit.loc = node.loc
            rule = _RULES.get(node.op)
            outputs = rule(self, node) if rule is not None else None
            if outputs is None:
                outputs = self.as_before(node)
            for old, new in zip(node.outputs, outputs, strict=True):
                self.kept[old] = new
        graph = self.builder.finish([self.whole(value) for value in self.graph.outputs])
        return renumbered(without_dead_nodes(graph))

    def whole(self, old: Value) -> Value:
        """The value with all its dimensions."""
        new, dropped = self.kept[old]
        return new if dropped is None else self.emit.reshape(new, type_of(old).shape)

    def without(self, old: Value, dim: int) -> Value:
        """The value without dimension ``dim``, which has size 1."""
        new, dropped = self.kept[old]
        if dropped == dim:
            return new
        shape = type_of(old).shape
        return self.emit.reshape(self.whole(old), (*shape[:dim], *shape[dim + 1 :]))

    def as_before(self, node: Node) -> Sequence[_Kept]:
        """The node on whole inputs."""
        types = tuple(value.type for value in node.outputs)
        inputs = [self.whole(value) for value in node.inputs]
        return [(value, None) for value in self.emit.node(node.op, inputs, node.attrs, types)]

    def again(
        self, node: Node, inputs: Sequence[Value], attrs: Mapping[str, Attr], dim: int | None
    ) -> Sequence[_Kept]:
        """The node on other inputs; its outputs lack ``dim``."""
        return [(value, dim) for value in self.emit.node(node.op, inputs, attrs)]


def _dropped(self: _Unbatcher, node: Node) -> int | None:
    """The dimension that the first input lacks."""
    return self.kept[node.inputs[0]][1]


def _shape(value: Value) -> tuple[Dim, ...]:
    return value.type.shape if isinstance(value.type, TensorType) else ()


def _pointwise(self: _Unbatcher, node: Node) -> Sequence[_Kept] | None:
    rank = len(_shape(node.output))
    lacking = [
        dropped + rank - len(_shape(value))
        for value in node.inputs
        for dropped in [self.kept[value][1]]
        if dropped is not None
    ]
    if not lacking or _shape(node.output)[lacking[0]] != 1:
        return None
    dim = lacking[0]
    inputs = []
    for value in node.inputs:
        own = dim - (rank - len(_shape(value)))
        inputs.append(self.without(value, own) if own >= 0 else self.whole(value))
    return self.again(node, inputs, node.attrs, dim)


def _reshape(self: _Unbatcher, node: Node) -> Sequence[_Kept]:
    source, shape = self.kept[node.inputs[0]][0], _shape(node.output)
    if len(shape) > 1 and shape[0] == 1:
        return [(self.emit.reshape(source, shape[1:]), 0)]
    return [(self.emit.reshape(source, shape), None)]


def _expand(self: _Unbatcher, node: Node) -> Sequence[_Kept]:
    x, shape = node.inputs[0], _shape(node.output)
    dim = _dropped(self, node)
    if dim is not None:
        place = dim + len(shape) - len(_shape(x))
        if shape[place] == 1:
            rest = (*shape[:place], *shape[place + 1 :])
            return [(self.emit.expand(self.kept[x][0], rest), place)]
    return [(self.emit.expand(self.whole(x), shape), None)]


def _permute(self: _Unbatcher, node: Node) -> Sequence[_Kept]:
    x, dims = node.inputs[0], _ints(node.attrs["dims"])
    dim = _dropped(self, node)
    if dim is None:
        return [(self.emit.permute(self.kept[x][0], dims), None)]
    rest = [_moved(old, dim) for old in dims if old != dim]
    return [(self.emit.permute(self.kept[x][0], rest), dims.index(dim))]


def _select(self: _Unbatcher, node: Node) -> Sequence[_Kept] | None:
    x, dim = node.inputs[0], _dropped(self, node)
    at = node.attrs["dim"]
    if dim is None or not isinstance(at, int):
        return None
    if at == dim:
        return [(self.kept[x][0], None)]
    attrs = {**node.attrs, "dim": _moved(at, dim)}
    return self.again(node, [self.kept[x][0]], attrs, _moved(dim, at))


def _along(self: _Unbatcher, node: Node) -> Sequence[_Kept] | None:
    """Operators that work along ``dim`` and leave the other dimensions alone; all inputs alike."""
    dim, at = _dropped(self, node), node.attrs["dim"]
    if dim is None or not isinstance(at, int) or at == dim:
        return None
    if any(len(_shape(value)) <= dim or _shape(value)[dim] != 1 for value in node.inputs):
        return None
    inputs = [self.without(value, dim) for value in node.inputs]
    attrs = {**node.attrs, "dim": _moved(at, dim)}
    keeps = node.attrs.get("keepdim", True)
    return self.again(node, inputs, attrs, dim if keeps else _moved(dim, at))


def _index_select(self: _Unbatcher, node: Node) -> Sequence[_Kept] | None:
    dim, at = _dropped(self, node), node.attrs["dim"]
    if dim is None or not isinstance(at, int) or at == dim:
        return None
    inputs = [self.kept[node.inputs[0]][0], self.whole(node.inputs[1])]
    return self.again(node, inputs, {"dim": _moved(at, dim)}, dim)


def _reduction(self: _Unbatcher, node: Node) -> Sequence[_Kept] | None:
    dim, dims = _dropped(self, node), _ints(node.attrs["dims"])
    if dim is None or dim in dims:
        return None
    left = dim if node.attrs["keepdim"] else dim - sum(at < dim for at in dims)
    attrs = {**node.attrs, "dims": tuple(_moved(at, dim) for at in dims)}
    return self.again(node, [self.kept[node.inputs[0]][0]], attrs, left)


def _dims_list(self: _Unbatcher, node: Node) -> Sequence[_Kept] | None:
    """``flip`` and ``roll``."""
    dim, dims = _dropped(self, node), _ints(node.attrs["dims"])
    if dim is None or dim in dims:
        return None
    attrs = {**node.attrs, "dims": tuple(_moved(at, dim) for at in dims)}
    return self.again(node, [self.kept[node.inputs[0]][0]], attrs, dim)


def _rows(trailing: int) -> _Rule:
    """Operators on the last dimensions of the first input, which see all others as rows."""

    def rule(self: _Unbatcher, node: Node) -> Sequence[_Kept] | None:
        dim = _dropped(self, node)
        axes = node.attrs.get("axes", trailing)
        if dim is None or not isinstance(axes, int) or dim >= len(_shape(node.inputs[0])) - axes:
            return None
        rest = [self.whole(value) for value in node.inputs[1:]]
        return self.again(node, [self.kept[node.inputs[0]][0], *rest], node.attrs, dim)

    return rule


def _matmul(self: _Unbatcher, node: Node) -> Sequence[_Kept] | None:
    a, b = node.inputs
    dim = self.kept[a][1] if self.kept[a][1] is not None else self.kept[b][1]
    ranks = len(_shape(a)), len(_shape(b))
    if dim is None:
        return None
    if ranks[1] == 2 and self.kept[a][1] is not None and dim < ranks[0] - 1 and ranks[0] > 2:
        return self.again(node, [self.kept[a][0], self.whole(b)], {}, dim)
    alike = ranks[0] == ranks[1] and dim < ranks[0] - 2
    if not alike or _shape(a)[dim] != 1 or _shape(b)[dim] != 1:
        return None
    return self.again(node, [self.without(a, dim), self.without(b, dim)], {}, dim)


def _pad(self: _Unbatcher, node: Node) -> Sequence[_Kept] | None:
    dim = _dropped(self, node)
    pads = node.attrs["pads"]
    if dim is None or not isinstance(pads, tuple):
        return None
    if dim >= len(_shape(node.inputs[0])) - len(pads) // 2:
        return None
    return self.again(node, [self.kept[node.inputs[0]][0]], node.attrs, dim)


def _moved(dim: int, dropped: int) -> int:
    """Where a dimension stands once another is gone."""
    return dim - 1 if dim > dropped else dim


def _ints(attr: Attr) -> list[int]:
    return [item for item in attr if isinstance(item, int)] if isinstance(attr, tuple) else []


_RULES: Mapping[str, _Rule] = {
    **{name: _pointwise for name, spec in OPS.items() if spec.scalar is not None},
    "reshape": _reshape,
    "expand": _expand,
    "permute": _permute,
    "select": _select,
    **{
        name: _along
        for name in [
            "slice",
            "concat",
            "split",
            "softmax",
            "log_softmax",
            "cumsum",
            "topk",
            "sort",
            "argmax",
            "gather",
            "scatter",
            "repeat_interleave",
        ]
    },
    "index_select": _index_select,
    **{name: _reduction for name in ["sum", "mean", "amax", "amin", "prod", "any", "var"]},
    "flip": _dims_list,
    "roll": _dims_list,
    "linear": _rows(1),
    "rms_norm": _rows(1),
    "layer_norm": _rows(1),
    "embed": _rows(0),
    "one_hot": _rows(0),
    "tril": _rows(2),
    "triu": _rows(2),
    "matmul": _matmul,
    "pad_constant": _pad,
}
