"""Lowering of pointwise operators, and of what creates numbers out of nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.ops import OPS
from graphopt.ir.ops_scalar import scalar_expression
from graphopt.ir.ops_spec import dim_of, dtype_of, int_of, scalar_of
from graphopt.ir.shape import Dim, Expr

from .access import Access
from .lower import Lower, Lowering, type_of
from .tree import Apply, Number, Position, RefusedError, Tree, kind_of, map_view


def apply(scalar: str, *args: Tree, dtype: DType = DType.F32, name: str = "") -> Apply:
    """An expression of trees of one shape."""
    return Apply(scalar, args, dtype, kind_of(dtype), name)


def broadcast(tree: Tree, shape: tuple[Dim, ...]) -> Tree:
    """The tree repeated to a shape."""
    found = map_view(tree, lambda access: access.expand(shape))
    return tree if found is None else found


def pointwise(lowering: Lowering, node: Node) -> Sequence[Tree]:
    """The node's expression of its operands."""
    type_ = type_of(node.output)
    args = tuple(broadcast(lowering.tree(value), type_.shape) for value in node.inputs)
    for value in node.inputs:
        if type_of(value).dtype not in lowering.dtypes:
            raise RefusedError(f"nothing is computed in {type_of(value).dtype}", node)
    scalar = scalar_expression(node.op, node.attrs)
    if node.op == "cast" and _loses_nothing(type_of(node.inputs[0]).dtype, type_.dtype):
        return args
    name = lowering.names.of(node.output)
    return (Apply(scalar, args, type_.dtype, kind_of(type_.dtype), name),)


def _loses_nothing(source: DType, target: DType) -> bool:
    """Whether each number of one type is one of the other, of the same kind."""
    return source is target or (source.is_float and target is DType.F32)


def full(lowering: Lowering, node: Node) -> Sequence[Tree]:
    """One number everywhere."""
    return (Number(scalar_of(node.attrs, "value"), kind_of(dtype_of(node.attrs, "dtype"))),)


def iota(lowering: Lowering, node: Node) -> Sequence[Tree]:
    """Numbers that grow with the position."""
    start, step = scalar_of(node.attrs, "start"), scalar_of(node.attrs, "step")
    type_ = type_of(node.output)
    if isinstance(start, int | Expr) and isinstance(step, int | Expr):
        place: Tree = Position(Access(type_.shape, (step,), start))
        return (apply(f"cast(a, {type_.dtype})", place, dtype=type_.dtype),)
    place = apply("cast(a, f32)", Position(Access(type_.shape, (1,))))
    numbers = (Number(float(x), "float") for x in (step, start) if not isinstance(x, Expr))
    value = apply("a * b + c", place, *numbers)
    return (apply(f"cast(a, {type_.dtype})", value, dtype=type_.dtype),)


def _triangle(comparison: str) -> Lower:
    def lower(lowering: Lowering, node: Node) -> Sequence[Tree]:
        type_ = type_of(node.output)
        rank = len(type_.shape)
        diagonal = Number(dim_of(node.attrs, "diagonal"), "int")
        strides = (*(0 for _ in range(rank - 2)), -1, 1)
        column = Position(Access(type_.shape, strides))
        kept = apply(f"a {comparison} b", column, diagonal, dtype=DType.BOOL)
        kind = kind_of(type_.dtype)
        zero = Number(False if kind == "bool" else 0, kind)
        x = lowering.tree(node.inputs[0])
        return (apply("where(a, b, c)", kept, x, zero, dtype=type_.dtype),)

    return lower


def one_hot(lowering: Lowering, node: Node) -> Sequence[Tree]:
    """Whether the position is what an id names."""
    classes, shape = int_of(node.attrs, "classes"), type_of(node.output).shape
    ids = map_view(
        lowering.tree(node.inputs[0]),
        lambda access: Access((*access.shape, classes), (*access.strides, 0), access.offset),
    )
    place = Position(Access(shape, (*(0 for _ in shape[1:]), 1)))
    if ids is None:
        raise RefusedError("the ids have no such view", node)
    return (apply("cast(a == b, i64)", ids, place, dtype=DType.I64),)


TABLE: Mapping[str, Lower] = {
    **{name: pointwise for name, spec in OPS.items() if spec.scalar is not None},
    "full": full,
    "iota": iota,
    "tril": _triangle("<="),
    "triu": _triangle(">="),
    "one_hot": one_hot,
}
