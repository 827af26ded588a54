"""Lowering of reductions, softmax, and of what sorts or scans a dimension.

A reduction goes to memory; what follows it, such as the division by a sum, is a tree again. Scans
and sorts are functions of the headers, called on rows that lie in memory side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node, Value
from graphopt.ir.ops_spec import bool_of, int_of, ints_of
from graphopt.ir.shape import product
from graphopt.ir.types import TensorType

from .access import Access
from .rows_lower import Lower, Lowering, type_of
from .rows_pointwise import apply, broadcast
from .rows_tree import (
    Address,
    Call,
    Leaf,
    Number,
    Reduce,
    RefusedError,
    Tree,
    map_view,
)


def reduced(
    lowering: Lowering,
    tree: Tree,
    type_: TensorType,
    dims: Sequence[int],
    how: str,
    *values: Value,
) -> Leaf:
    """``tree`` reduced over ``dims``, which stay as dimensions of size 1."""
    over = tuple(size for dim in dims if isinstance(size := type_.shape[dim], int))
    if len(over) < len(dims):
        raise RefusedError("rows are reduced", *values)
    kept = [dim for dim in range(len(type_.shape)) if dim not in dims]
    moved = map_view(tree, lambda access: access.permute((*kept, *dims)))
    if moved is None:
        raise RefusedError("a reduction has no such view", *values)
    outer = TensorType(_wide(type_.dtype), tuple(type_.shape[dim] for dim in kept))
    target = lowering.private(outer, how)
    lowering.statements.append(Reduce(how, target, moved, over, values))
    access = target.access
    for dim in dims:
        access = Access(
            (*access.shape[:dim], 1, *access.shape[dim:]),
            (*access.strides[:dim], 0, *access.strides[dim:]),
            access.offset,
        )
    return Leaf(target.buffer, access)


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
        return (_kept(node, reduced(lowering, tree, type_, dims, way, node.output), dims),)

    return lower


def _kept(node: Node, tree: Tree, dims: Sequence[int]) -> Tree:
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
    return (_kept(node, mean(lowering, tree, type_, dims, node.output), dims),)


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
    tree = in_memory(lowering, lowering.tree(node.inputs[0]), type_, node.inputs[0])
    center = broadcast(mean(lowering, tree, type_, dims, node.output), type_.shape)
    squares = apply("square(a - b)", tree, center)
    total = reduced(lowering, squares, type_, dims, "sum", node.output)
    count = product(type_.shape[dim] for dim in dims)
    freedom = max(0, count - int_of(node.attrs, "correction")) if isinstance(count, int) else 0
    return (_kept(node, apply("a / b", total, Number(freedom, "float"), name="var"), dims),)


def in_memory(lowering: Lowering, tree: Tree, type_: TensorType, value: Value) -> Tree:
    """``tree``, or a copy if loading it again is not cheap."""
    if isinstance(tree, Leaf):
        return tree
    return lowering.store(tree, type_, lowering.names.of(value), value)


def _softmax(*, logarithm: bool) -> Lower:
    def lower(lowering: Lowering, node: Node) -> Sequence[Tree]:
        type_, dims = type_of(node.inputs[0]), (int_of(node.attrs, "dim"),)
        tree = in_memory(lowering, lowering.tree(node.inputs[0]), type_, node.inputs[0])
        top = broadcast(reduced(lowering, tree, type_, dims, "max", node.output), type_.shape)
        powers: Tree = apply("exp(a - b)", tree, top)
        if not logarithm:
            powers = lowering.store(powers, type_, "power", node.output)
        total = reduced(lowering, powers, type_, dims, "sum", node.output)
        if logarithm:
            rest = broadcast(apply("log(a)", total, name="log_sum"), type_.shape)
            return (apply("a - b - c", tree, top, rest, dtype=type_.dtype),)
        share = broadcast(apply("1.0 / a", total, name="share"), type_.shape)
        return (apply("a * b", powers, share, dtype=type_.dtype),)

    return lower


def lines(
    lowering: Lowering, tree: Tree, type_: TensorType, dim: int, name: str
) -> tuple[Leaf, list[int]]:
    """``tree`` in memory with ``dim`` innermost, and the order of dimensions that makes it so."""
    order = [other for other in range(len(type_.shape)) if other != dim] + [dim]
    moved = map_view(tree, lambda access: access.permute(order))
    if moved is None or not isinstance(type_.shape[dim], int):
        raise RefusedError("a scan or a sort goes over rows")
    turned = TensorType(type_.dtype, tuple(type_.shape[i] for i in order))
    return lowering.rows_of(moved, turned, name), order


def heads_of(leaf: Leaf) -> Leaf:
    """The first element of each line of a leaf."""
    return Leaf(leaf.buffer, leaf.access.select(len(leaf.access.shape) - 1, 0))


def _on_lines(function: str) -> Lower:
    """A function ``f(line, count, out..)`` of each line along a dimension."""

    def lower(lowering: Lowering, node: Node) -> Sequence[Tree]:
        type_, dim = type_of(node.inputs[0]), int_of(node.attrs, "dim")
        line, order = lines(lowering, lowering.tree(node.inputs[0]), type_, dim, "line")
        whole = node.op == "cumsum"
        if whole and line.kind == "bool":
            line = lowering.store(
                apply("cast(a, i64)", line, dtype=DType.I64),
                TensorType(DType.I64, line.access.shape),
                "line",
            )
        outer = line.access.shape[:-1]
        targets = []
        for output in node.outputs:
            own = type_of(output)
            keeps = node.op != "argmax"
            shape = (*outer, own.shape[dim]) if keeps else (*outer, 1)
            dtype = DType.F32 if own.dtype.is_float else own.dtype
            targets.append(lowering.private(TensorType(dtype, shape), lowering.names.of(output)))
        args: list[str | Address | Tree] = [Address(heads_of(line)), str(type_.shape[dim])]
        args += [str(node.attrs["k"])] if node.op == "topk" else []
        flag = {"topk": "largest", "sort": "descending"}.get(node.op)
        if flag is not None:
            args.append("true" if bool_of(node.attrs, flag) else "false")
        args += [Address(heads_of(target)) for target in targets]
        lowering.statements.append(Call(function, outer, tuple(args), node.outputs))
        back = [order.index(i) for i in range(len(order))]
        results: list[Tree] = [
            Leaf(target.buffer, target.access.permute(back)) for target in targets
        ]
        if node.op == "argmax":
            results = [_kept(node, tree, (dim,)) for tree in results]
        return results

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
    "argmax": _on_lines("argmax"),
    "cumsum": _on_lines("running_sum"),
    "topk": _on_lines("top_k"),
    "sort": _on_lines("sort_line"),
}
