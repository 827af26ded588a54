"""What chooses along a dimension, as trees of reductions: the greatest, sorts, scans, routers.

before:  ``topk``, ``sort``, ``argmax``, ``cumsum``, ``moe_router``, reads at computed indices
after:   trees that tiles compute without reading one another's registers

A number and where it stands are one 64-bit integer, a key: the number's bits, in an order that
integers have, above the distance to the last place. So keys differ, the greatest is what PyTorch
takes (NaN above all, and of equal numbers the first), and one reduction finds both. A few greatest
are as many reductions, each over what is below the one before; a whole order counts for each key
how many are greater.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import bool_of, float_of, int_of, ints_of, str_of
from graphopt.ir.shape import Dim
from graphopt.ir.types import TensorType

from ..rows import reduce
from ..rows.access import Access
from ..rows.lower import Lower, Lowering, type_of
from ..rows.places import Coordinate, at, computed, position, reshaped, same, whole
from ..rows.pointwise import apply, broadcast
from ..rows.reduce import reduced
from ..rows.shape import narrow
from ..rows.tree import Apply, Assembly, Number, Position, Reduced, RefusedError, Tree, map_view
from .tile_scope import KEY

# The greatest numbers of a line one after the other, up to so many; more are an order of all.
_FEW = 16
# Longest line that is put in order: the work grows with its square.
_LONGEST = 1024
_LOWEST = -(2**63)
_PLACES = 2**32


@dataclass(frozen=True, slots=True)
class Line:
    """Numbers along one dimension of a value.

    Attributes:
        lowering: what is known of the region.
        node: what chooses among them.
        tree: the numbers.
        type_: their type.
        dims: the dimensions that they lie along, the outer ones first.
        largest: whether the greatest comes first.
    """

    lowering: Lowering
    node: Node
    tree: Tree
    type_: TensorType
    dims: tuple[int, ...]
    largest: bool = True

    @property
    def size(self) -> int:
        """How many there are."""
        total = 1
        for dim in self.dims:
            size = self.type_.shape[dim]
            if not isinstance(size, int):
                raise RefusedError("a scan or a sort goes over rows", self.node)
            total *= size
        return total

    def keys(self) -> Tree:
        """The key of each number; the last of them differ in the lowest bits."""
        if self.type_.dtype is DType.I64:
            raise RefusedError("64-bit integers are put in order", self.node)
        tree = self.tree
        if self.type_.dtype.is_float:
            tree = whole("ordered(a)", tree)
        elif self.type_.dtype is DType.BOOL:
            tree = apply("cast(a, i64)", tree, dtype=DType.I64)
        if not self.largest:
            tree = whole("-a", tree)
        key = whole(f"a * {_PLACES} + b", tree, self.last())
        return Apply(key.scalar, key.args, key.dtype, key.kind, KEY)

    def last(self) -> Tree:
        """How far each is from the last."""
        strides: list[Dim] = [0 for _ in self.type_.shape]
        by = 1
        for dim in reversed(self.dims):
            size = self.type_.shape[dim]
            strides[dim], by = -by, by * (size if isinstance(size, int) else 1)
        return Position(Access(self.type_.shape, tuple(strides), self.size - 1))

    def fold(self, how: str, tree: Tree, dtype: DType = DType.I64) -> Tree:
        """A tree of the line's shape, reduced along it and spread again."""
        type_ = TensorType(dtype, self.type_.shape)
        return reduced(self.lowering, tree, type_, self.dims, how, *self.node.outputs)

    def spread(self, tree: Tree) -> Tree:
        """One number a line, for each place of it."""
        return broadcast(tree, self.type_.shape)

    def greatest(self, count: int) -> list[Tree]:
        """The greatest keys, one after the other."""
        keys = self.keys()
        found = [self.fold("max", keys)]
        while len(found) < count:
            below = whole(f"where(a < b, a, {_LOWEST})", keys, self.spread(found[-1]))
            found.append(self.fold("max", below))
        return found

    def number(self, key: Tree) -> Tree:
        """The number of a key."""
        dtype = self.type_.dtype
        high = whole("upper(a)", key)
        if not self.largest:
            high = whole("-a", high)
        if dtype.is_float:
            return apply("unordered(a)", high, name="value")
        return apply("cast(a, bool)", high, dtype=dtype) if dtype is DType.BOOL else high

    def place(self, key: Tree) -> Tree:
        """Where the number of a key stands."""
        return whole(f"{self.size - 1} - (a & {_PLACES - 1})", key)


def _line(lowering: Lowering, node: Node, *, largest: bool = True) -> Line:
    type_, dim = type_of(node.inputs[0]), int_of(node.attrs, "dim")
    tree = lowering.at_hand(lowering.tree(node.inputs[0]), type_, node.inputs[0])
    return Line(lowering, node, tree, type_, (dim,), largest)


def _argmax(lowering: Lowering, node: Node) -> Sequence[Tree]:
    line = _line(lowering, node)
    if line.type_.dtype is not DType.I64:
        found = line.place(line.greatest(1)[0])
    else:
        top = line.spread(line.fold("max", line.tree))
        last = whole("where(a == b, c, -1)", line.tree, top, line.last())
        found = whole(f"{line.size - 1} - a", line.fold("max", last))
    return (reduce.kept(node, found, line.dims),)


def _topk(lowering: Lowering, node: Node) -> Sequence[Tree | Assembly]:
    line = _line(lowering, node, largest=bool_of(node.attrs, "largest"))
    count = int_of(node.attrs, "k")
    if count > _FEW or line.type_.dtype is DType.I64:
        return _ordered(line, count)
    keys = line.greatest(count)
    places = [narrow(line.dims[0], number, 1) for number in range(count)]
    values = [line.number(key) for key in keys]
    standing = [line.place(key) for key in keys]
    return [Assembly(tuple(zip(places, trees, strict=True))) for trees in (values, standing)]


def _sort(lowering: Lowering, node: Node) -> Sequence[Tree]:
    line = _line(lowering, node, largest=bool_of(node.attrs, "descending"))
    return _ordered(line, line.size)


def _ordered(line: Line, count: int) -> Sequence[Tree]:
    """The first ``count`` numbers of a line in order, and where they stood."""
    if line.size > _LONGEST:
        raise RefusedError(f"more than {_LONGEST} numbers are put in order", line.node)
    (dim,), size, shape = line.dims, line.size, line.type_.shape
    pairs = (*shape, size)  # a number and another of its line
    number, other = same(pairs)[:-1], same(pairs)[:-1]
    other[dim] = same(pairs)[-1]
    wanted = (*shape[:dim], count, *shape[dim + 1 :], size)  # a place in the order, and a number
    of_all = same(wanted)[:-1]
    of_all[dim] = same(wanted)[-1]
    if line.type_.dtype is not DType.I64:
        keys = line.keys()
        first = apply("a > b", at(keys, other), at(keys, number), dtype=DType.BOOL)
        key = Reduced("max", _chosen(first, pairs, wanted, of_all, at(keys, of_all), dim), (size,))
        return line.number(key), line.place(key)
    mine, its = at(line.tree, number), at(line.tree, other)
    before = apply("a > b" if line.largest else "a < b", its, mine, dtype=DType.BOOL)
    earlier = apply(
        "a < b", position(pairs, len(pairs) - 1), position(pairs, dim), dtype=DType.BOOL
    )
    equal = apply("a == b and c", its, mine, earlier, dtype=DType.BOOL)
    first = apply("a or b", before, equal, dtype=DType.BOOL)
    trees = (at(line.tree, of_all), position(wanted, len(wanted) - 1))
    found = [_chosen(first, pairs, wanted, of_all, tree, dim) for tree in trees]
    return [Reduced("max", tree, (size,)) for tree in found]


def _chosen(
    first: Tree,
    pairs: tuple[Dim, ...],
    wanted: tuple[Dim, ...],
    of_all: Sequence[Coordinate],
    tree: Tree,
    dim: int,
) -> Tree:
    """A tree where so many others come first as its reader's place says; else the lowest number."""
    rank = Reduced("sum", apply("cast(a, i64)", first, dtype=DType.I64), (_last(pairs),))
    return whole(f"where(a == b, c, {_LOWEST})", at(rank, of_all), position(wanted, dim), tree)


def _last(shape: tuple[Dim, ...]) -> int:
    size = shape[-1]
    return size if isinstance(size, int) else 0


def _cumsum(lowering: Lowering, node: Node) -> Sequence[Tree]:
    line = _line(lowering, node)
    (dim,), size, shape = line.dims, line.size, line.type_.shape
    dtype, tree = type_of(node.output).dtype, line.tree
    if line.type_.dtype is DType.BOOL:
        tree = apply("cast(a, i64)", tree, dtype=DType.I64)
    pairs = (*shape, size)
    other = same(pairs)[:-1]
    other[dim] = same(pairs)[-1]
    before = apply(
        "a <= b", position(pairs, len(pairs) - 1), position(pairs, dim), dtype=DType.BOOL
    )
    taken = apply("where(a, b, 0)", before, at(tree, other), dtype=dtype)
    return (Reduced("sum", taken, (size,)),)


# ---- Routers ------------------------------------------------------------------------------------


def _moe_router(lowering: Lowering, node: Node) -> Sequence[Assembly]:
    attrs, (_, experts) = node.attrs, type_of(node.inputs[0]).shape
    if not isinstance(experts, int):
        raise RefusedError("experts are rows", node)
    groups, scores = int_of(attrs, "groups"), str_of(attrs, "scores")
    given = [lowering.tree(value) for value in node.inputs]
    type_ = TensorType(DType.F32, type_of(node.inputs[0]).shape)
    wide = _scores(Line(lowering, node, given[0], type_, (1,)), scores)
    choice = wide
    if len(given) == 2:
        choice = apply("a + b", wide, broadcast(given[1], type_.shape), name="choice")
    if groups > 1:
        wide, choice = (_split(tree, groups, experts // groups) for tree in (wide, choice))
        type_ = TensorType(DType.F32, (type_.shape[0], groups, experts // groups))
        choice = _limited(lowering, node, choice, type_)
    line = Line(lowering, node, choice, type_, tuple(range(1, len(type_.shape))))
    chosen = line.greatest(int_of(attrs, "k"))
    if choice is wide:
        weights = [line.number(key) for key in chosen]
    else:
        keys = line.keys()
        weights = [
            line.fold("sum", apply("where(a == b, c, 0)", keys, line.spread(key), wide), DType.F32)
            for key in chosen
        ]
    weights = _weights(node, weights, is_sorted=choice is wide)
    standing = [line.place(key) for key in chosen]
    return [
        Assembly(tuple((narrow(1, place, 1), _one(tree)) for place, tree in enumerate(trees)))
        for trees in (weights, standing)
    ]


def _one(tree: Tree) -> Tree:
    """A tree ``[T, 1]`` of ``[T, 1, 1]``."""
    found = map_view(tree, lambda access: access if len(access.shape) == 2 else access.select(2, 0))
    return tree if found is None else found


def _split(tree: Tree, groups: int, size: int) -> Tree:
    found = map_view(tree, lambda access: access.split(1, groups, size))
    return tree if found is None else found


def _scores(line: Line, scores: str) -> Tree:
    if scores == "sigmoid":
        return apply("1.0 / (1.0 + exp(-a))", line.tree, name="score")
    if scores != "softmax":
        return line.tree
    top = line.spread(line.fold("max", line.tree, DType.F32))
    power = apply("exp(a - b)", line.tree, top, name="power")
    return apply("a / b", power, line.spread(line.fold("sum", power, DType.F32)), name="score")


def _limited(lowering: Lowering, node: Node, choice: Tree, type_: TensorType) -> Tree:
    """The scores of the best groups; those of others count as the node says."""
    groups, top = int_of(node.attrs, "groups"), int_of(node.attrs, "top_groups")
    if groups == top:
        return choice
    members = Line(lowering, node, choice, type_, (2,))
    count = 2 if str_of(node.attrs, "group_score") == "top2" else 1
    best = [members.number(key) for key in members.greatest(count)]
    total = best[0] if count == 1 else apply("a + b", *best, name="best")
    outer = Line(lowering, node, total, TensorType(DType.F32, (*type_.shape[:2], 1)), (1,))
    least = outer.spread(outer.greatest(top)[-1])
    inside = apply("a >= b", outer.keys(), least, dtype=DType.BOOL, name="inside")
    masked = Number(float_of(node.attrs, "masked"), "float")
    return apply("where(a, b, c)", broadcast(inside, type_.shape), choice, masked, name="choice")


def _weights(node: Node, scores: Sequence[Tree], *, is_sorted: bool) -> list[Tree]:
    """What the chosen experts count, of their scores."""
    kind, found = str_of(node.attrs, "scores"), list(scores)
    if kind == "chosen_sigmoid":
        found = [apply("1.0 / (1.0 + exp(-a))", score, name="score") for score in found]
    elif kind == "chosen_softmax":
        top = found[0]
        for score in [] if is_sorted else found[1:]:
            top = apply("maximum(a, b)", top, score)
        found = [apply("exp(a - b)", score, top, name="power") for score in found]
        share = apply("1.0 / a", _total(found), name="share")
        found = [apply("a * b", power, share) for power in found]
    scale = Number(float_of(node.attrs, "scale"), "float")
    if bool_of(node.attrs, "normalized"):
        total = _total(found)
        for name, scalar in (("least", "maximum(a, b)"), ("epsilon", "a + b")):
            if number := float_of(node.attrs, name):  # no score is below 0
                total = apply(scalar, total, Number(number, "float"))
        total = apply(total.scalar, *total.args, name="total")
        found = [apply("a / b", score, total) for score in found]
    if scale.value != 1.0:
        found = [apply("a * b", score, scale) for score in found]
    return found


def _total(trees: Sequence[Tree]) -> Apply:
    total = apply("a + 0.0" if len(trees) == 1 else "a + b", *trees[:2])
    for tree in trees[2:]:
        total = apply("a + b", total, tree)
    return total


# ---- Reads at computed places -------------------------------------------------------------------


def _reshape(lowering: Lowering, node: Node) -> Sequence[Tree | Assembly]:
    """Under another shape; with computed places, if strides cannot say it."""
    new, tree = type_of(node.output).shape, lowering.tree(node.inputs[0])
    found = map_view(tree, lambda access: access.reshape(new))
    if found is not None:
        return (found,)
    return (reshaped(tree, type_of(node.inputs[0]).shape, new),)


def _taken(lowering: Lowering, node: Node) -> Sequence[Tree]:
    """Elements along a dimension, of memory or of what is computed."""
    dim, new = int_of(node.attrs, "dim"), type_of(node.output).shape
    tree, place = (lowering.tree(value) for value in node.inputs)
    if node.op == "index_select":
        place = _spread_along(place, new, dim)
    coordinates = same(new)
    coordinates[dim] = computed(new, place)
    return (at(tree, coordinates),)


def _spread_along(tree: Tree, new: tuple[Dim, ...], dim: int) -> Tree:
    def along(access: Access) -> Access:
        strides = tuple(access.strides[0] if i == dim else 0 for i in range(len(new)))
        return Access(new, strides, access.offset)

    found = map_view(tree, along)
    return tree if found is None else found


def _extreme(op: str) -> Lower:
    """The greatest or the least, and NaN where there is one: tiles leave those out."""

    def lower(lowering: Lowering, node: Node) -> Sequence[Tree | Assembly]:
        (found,) = reduce.TABLE[op](lowering, node)
        value, dims = node.inputs[0], ints_of(node.attrs, "dims")
        type_ = type_of(value)
        if not type_.dtype.is_float or not dims or isinstance(found, Assembly):
            return (found,)
        x = lowering.tree(value)
        none = TensorType(DType.BOOL, type_.shape)
        is_nan = apply("a != b", x, x, dtype=DType.BOOL)
        any_nan = reduced(lowering, is_nan, none, dims, "any", node.output)
        nan = Number(math.nan, "float")
        return (apply("where(a, b, c)", reduce.kept(node, any_nan, dims), nan, found),)

    return lower


TABLE: Mapping[str, Lower] = {
    "amax": _extreme("amax"),
    "amin": _extreme("amin"),
    "argmax": _argmax,
    "topk": _topk,
    "sort": _sort,
    "cumsum": _cumsum,
    "moe_router": _moe_router,
    "reshape": _reshape,
    "index_select": _taken,
    "gather": _taken,
}
