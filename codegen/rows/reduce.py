"""Lowering of reductions and softmax.

What follows a reduction, such as the division by a sum, is a tree again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node, Value
from graphopt.ir.ops_spec import bool_of, int_of, ints_of
from graphopt.ir.shape import product
from graphopt.ir.types import TensorType

from .access import Access
from .lower import Lower, Lowering, type_of
from .pointwise import apply, broadcast
from .tree import Number, RefusedError, Tree, map_view


def reduced(
    lowering: Lowering,
    tree: Tree,
    type_: TensorType,
    dims: Sequence[int],
    how: str,
    *values: Value,
) -> Tree:
    """``tree`` reduced over ``dims``, which stay as dimensions of size 1."""
    over = tuple(size for dim in dims if isinstance(size := type_.shape[dim], int))
    if len(over) < len(dims):
        raise RefusedError("rows are reduced", *values)
    kept = [dim for dim in range(len(type_.shape)) if dim not in dims]
    moved = map_view(tree, lambda access: access.permute((*kept, *dims)))
    if moved is None:
        raise RefusedError("a reduction has no such view", *values)
    outer = TensorType(_wide(type_.dtype), tuple(type_.shape[dim] for dim in kept))
    folded = lowering.fold(how, moved, outer, over, *values)
    wide = map_view(folded, lambda access: _with_ones(access, dims))
    if wide is None:
        raise RefusedError("a reduction has no such view", *values)
    return wide


def _with_ones(access: Access, dims: Sequence[int]) -> Access:
    for dim in dims:
        access = Access(
            (*access.shape[:dim], 1, *access.shape[dim:]),
            (*access.strides[:dim], 0, *access.strides[dim:]),
            access.offset,
        )
    return access


def _wide(dtype: DType) -> DType:
    return DType.F32 if dtype.is_float else DType.I64 if dtype.is_int else dtype


def _reduction(how: str) -> Lower:
    def lower(lowering: Lowering, node: Node) -> Sequence[Tree]:
        type_ = type_of(node.inputs[0])
        tree = lowering.tree(node.inputs[0])
        way = how
        if type_.dtype is DType.BOOL and way in ("sum", "product"):
            type_ = TensorType(DType.I64, type_.shape)
            tree = apply("cast(a, i64)", tree, dtype=DType.I64)
        elif way == "any" and type_.dtype is not DType.BOOL:
            type_ = TensorType(DType.BOOL, type_.shape)
            tree = apply("cast(a, bool)", tree, dtype=DType.BOOL)
        elif type_.dtype is DType.BOOL:
            way = {"max": "any", "min": "all"}.get(way, way)
        dims = ints_of(node.attrs, "dims")
        if not dims:
            return (tree,)
        return (kept(node, reduced(lowering, tree, type_, dims, way, node.output), dims),)

    return lower


def kept(node: Node, tree: Tree, dims: Sequence[int]) -> Tree:
    """A reduced tree with the dimensions that the node's output has."""
    if bool_of(node.attrs, "keepdim"):
        return tree
    for dim in reversed(dims):
        found = map_view(tree, _without(dim))
        if found is not None:
            tree = found
    return tree


def _without(dim: int) -> Callable[[Access], Access]:
    return lambda access: access.select(dim, 0)


def _mean(lowering: Lowering, node: Node) -> Sequence[Tree]:
    type_, dims = type_of(node.inputs[0]), ints_of(node.attrs, "dims")
    tree = lowering.tree(node.inputs[0])
    return (kept(node, mean(lowering, tree, type_, dims, node.output), dims),)


def mean(
    lowering: Lowering, tree: Tree, type_: TensorType, dims: Sequence[int], *values: Value
) -> Tree:
    """The mean over ``dims``, which stay as dimensions of size 1."""
    if not dims:
        return tree
    total = reduced(lowering, tree, type_, dims, "sum", *values)
    count = product(type_.shape[dim] for dim in dims)
    return apply("a / b", total, Number(count, "float"), name="mean")


def _var(lowering: Lowering, node: Node) -> Sequence[Tree]:
    type_, dims = type_of(node.inputs[0]), ints_of(node.attrs, "dims")
    if not dims:
        raise RefusedError("the variance of single numbers", node)
    tree = lowering.at_hand(lowering.tree(node.inputs[0]), type_, node.inputs[0])
    center = broadcast(mean(lowering, tree, type_, dims, node.output), type_.shape)
    squares = apply("square(a - b)", tree, center)
    total = reduced(lowering, squares, type_, dims, "sum", node.output)
    count = product(type_.shape[dim] for dim in dims)
    freedom = max(0, count - int_of(node.attrs, "correction")) if isinstance(count, int) else 0
    return (kept(node, apply("a / b", total, Number(freedom, "float"), name="var"), dims),)


def _softmax(*, logarithm: bool) -> Lower:
    def lower(lowering: Lowering, node: Node) -> Sequence[Tree]:
        type_, dims = type_of(node.inputs[0]), (int_of(node.attrs, "dim"),)
        tree = lowering.at_hand(lowering.tree(node.inputs[0]), type_, node.inputs[0])
        top = broadcast(reduced(lowering, tree, type_, dims, "max", node.output), type_.shape)
        powers: Tree = apply("exp(a - b)", tree, top, name="power")
        if not logarithm:
            powers = lowering.at_hand(powers, type_, node.output, "power")
        total = reduced(lowering, powers, type_, dims, "sum", node.output)
        if logarithm:
            rest = broadcast(apply("log(a)", total, name="log_sum"), type_.shape)
            return (apply("a - b - c", tree, top, rest, dtype=type_.dtype),)
        share = broadcast(apply("1.0 / a", total, name="share"), type_.shape)
        return (apply("a * b", powers, share, dtype=type_.dtype),)

    return lower


TABLE: Mapping[str, Lower] = {
    "sum": _reduction("sum"),
    "prod": _reduction("product"),
    "amax": _reduction("max"),
    "amin": _reduction("min"),
    "any": _reduction("any"),
    "mean": _mean,
    "var": _var,
    "softmax": _softmax(logarithm=False),
    "log_softmax": _softmax(logarithm=True),
}
