"""Lowering of layers: norms and rotary positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import bool_of, float_of, int_of
from graphopt.ir.shape import Dim

from .access import Access
from .lower import Lower, Lowering, type_of
from .pointwise import apply, broadcast
from .reduce import mean
from .shape import Place, narrow
from .tree import Assembly, Number, RefusedError, Tree, map_view


def _rms_norm(lowering: Lowering, node: Node) -> Sequence[Tree]:
    type_ = type_of(node.output)
    x = lowering.at_hand(lowering.tree(node.inputs[0]), type_, node.inputs[0])
    last = (len(type_.shape) - 1,)
    square = mean(lowering, apply("square(a)", x), type_, last, node.output)
    eps = Number(float_of(node.attrs, "eps"), "float")
    scale = broadcast(apply("rsqrt(a + b)", square, eps, name="scale"), type_.shape)
    name = lowering.names.of(node.output)
    normed = apply("a * b", x, scale, dtype=type_.dtype, name=name)
    if len(node.inputs) == 1:
        return (normed,)
    weight = broadcast(lowering.tree(node.inputs[1]), type_.shape)
    offset = float_of(node.attrs, "offset")
    if offset:
        weight = apply("a + b", weight, Number(offset, "float"))
    return (apply("a * b", normed, weight, dtype=type_.dtype, name=name),)


def _layer_norm(lowering: Lowering, node: Node) -> Sequence[Tree]:
    type_, axes = type_of(node.output), int_of(node.attrs, "axes")
    x = lowering.at_hand(lowering.tree(node.inputs[0]), type_, node.inputs[0])
    dims = tuple(range(len(type_.shape) - axes, len(type_.shape)))
    center = broadcast(mean(lowering, x, type_, dims, node.output), type_.shape)
    deviation = apply("a - b", x, center, name="deviation")
    square = mean(lowering, apply("square(a)", deviation), type_, dims, node.output)
    eps = Number(float_of(node.attrs, "eps"), "float")
    scale = broadcast(apply("rsqrt(a + b)", square, eps, name="scale"), type_.shape)
    name = lowering.names.of(node.output)
    result: Tree = apply("a * b", deviation, scale, dtype=type_.dtype, name=name)
    others = [broadcast(lowering.tree(value), type_.shape) for value in node.inputs[1:]]
    if bool_of(node.attrs, "has_weight"):
        result = apply("a * b", result, others.pop(0), dtype=type_.dtype, name=name)
    if bool_of(node.attrs, "has_bias"):
        result = apply("a + b", result, others.pop(0), dtype=type_.dtype, name=name)
    return (result,)


def _rope(lowering: Lowering, node: Node) -> Sequence[Assembly]:
    type_ = type_of(node.output)
    x = lowering.at_hand(lowering.tree(node.inputs[0]), type_, node.inputs[0])
    _, heads, size = type_.shape
    pairs = type_of(node.inputs[1]).shape[1]
    offset, interleaved = int_of(node.attrs, "offset"), bool_of(node.attrs, "interleaved")
    if not (isinstance(pairs, int) and isinstance(size, int)):
        raise RefusedError("a head has no fixed size", node)

    def table(value: int) -> Tree:
        given = node.inputs[value]
        tree = lowering.at_hand(lowering.tree(given), type_of(given), given)
        return _over_heads(tree, heads)

    step, second = (2, offset + 1) if interleaved else (1, offset + pairs)
    halves = [narrow(2, start, pairs, step) for start in (offset, second)]
    a, b = (map_view(x, half) for half in halves)
    if a is None or b is None:
        raise RefusedError("heads have no halves", node)
    cos, sin = table(1), table(2)
    turned = (
        apply("a - b", apply("a * b", a, cos), apply("a * b", b, sin), name="low"),
        apply("a + b", apply("a * b", b, cos), apply("a * b", a, sin), name="high"),
    )
    parts: list[tuple[Place, Tree]] = list(zip(halves, turned, strict=True))
    for start, stop in ((0, offset), (offset + 2 * pairs, size)):
        rest = map_view(x, narrow(2, start, stop - start))
        if stop > start and rest is not None:
            parts.append((narrow(2, start, stop - start), rest))
    return (Assembly(tuple(parts)),)


def _over_heads(tree: Tree, heads: Dim) -> Tree:
    """A table ``[T, P]`` as ``[T, heads, P]``."""
    found = map_view(
        tree,
        lambda access: Access(
            (access.shape[0], heads, access.shape[1]),
            (access.strides[0], 0, access.strides[1]),
            access.offset,
        ),
    )
    return tree if found is None else found


TABLE: Mapping[str, Lower] = {
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "rope": _rope,
}
