"""Lowering of views, and of what is put together from parts: concat, pad, roll, repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

from graphopt.ir.graph import Node
from graphopt.ir.ops_spec import dim_of, dims_of, int_of, ints_of, scalar_of
from graphopt.ir.shape import Dim

from .access import Access
from .lower import Lower, Lowering, type_of
from .tree import Assembly, Number, RefusedError, Tree, kind_of, map_view

Place = Callable[[Access], Access]


def _reshape(lowering: Lowering, node: Node) -> Sequence[Tree]:
    shape = type_of(node.output).shape
    return (lowering.viewed(node.inputs[0], lambda access: access.reshape(shape), node),)


def _permute(lowering: Lowering, node: Node) -> Sequence[Tree]:
    dims = ints_of(node.attrs, "dims")
    return (lowering.viewed(node.inputs[0], lambda access: access.permute(dims), node),)


def _expand(lowering: Lowering, node: Node) -> Sequence[Tree]:
    shape = type_of(node.output).shape
    return (lowering.viewed(node.inputs[0], lambda access: access.expand(shape), node),)


def _slice(lowering: Lowering, node: Node) -> Sequence[Tree]:
    dim, start = int_of(node.attrs, "dim"), dim_of(node.attrs, "start")
    size = type_of(node.output).shape[dim]
    view = narrow(dim, start, size, int_of(node.attrs, "step"))
    return (lowering.viewed(node.inputs[0], view, node),)


def _select(lowering: Lowering, node: Node) -> Sequence[Tree]:
    dim, index = int_of(node.attrs, "dim"), dim_of(node.attrs, "index")
    return (lowering.viewed(node.inputs[0], lambda access: access.select(dim, index), node),)


def _split(lowering: Lowering, node: Node) -> Sequence[Tree]:
    dim, start = int_of(node.attrs, "dim"), 0
    parts: list[Tree] = []
    begin: Dim = start
    for size in dims_of(node.attrs, "sizes"):
        parts.append(lowering.viewed(node.inputs[0], narrow(dim, begin, size), node))
        begin = begin + size
    return parts


def _flip(lowering: Lowering, node: Node) -> Sequence[Tree]:
    dims = ints_of(node.attrs, "dims")
    return (lowering.viewed(node.inputs[0], lambda access: access.flip(dims), node),)


def narrow(dim: int, start: Dim, size: Dim, step: int = 1) -> Place:
    """The view of a part along one dimension."""
    return lambda access: access.slice(dim, start, size, step)


def _concat(lowering: Lowering, node: Node) -> Sequence[Assembly]:
    dim = int_of(node.attrs, "dim")
    parts: list[tuple[Place, Tree]] = []
    start: Dim = 0
    for value in node.inputs:
        made, size = lowering.made(value), type_of(value).shape[dim]
        place = narrow(dim, start, size)
        start = start + size
        if isinstance(made, Assembly):
            parts.extend((_then(place, inner), tree) for inner, tree in made.parts)
        else:
            parts.append((place, made))
    return (Assembly(tuple(parts)),)


def _then(outer: Place, inner: Place) -> Place:
    return lambda access: inner(outer(access))


def _pad(lowering: Lowering, node: Node) -> Sequence[Assembly]:
    type_, whole = type_of(node.inputs[0]), type_of(node.output).shape
    pads = dims_of(node.attrs, "pads")
    filling = Number(scalar_of(node.attrs, "value"), kind_of(type_.dtype))
    tree = lowering.tree(node.inputs[0])
    parts: list[tuple[Place, Tree]] = []
    inside: Place = _same
    for pair in range(len(pads) // 2):
        dim = len(type_.shape) - 1 - pair
        before, after = pads[2 * pair], pads[2 * pair + 1]
        if not (isinstance(before, int) and isinstance(after, int)):
            raise RefusedError("padding has no fixed size", node)
        size = type_.shape[dim] + min(before, 0) + min(after, 0)
        low, high = max(before, 0), max(after, 0)
        if low:
            parts.append((_then(inside, narrow(dim, 0, low)), filling))
        if high:
            parts.append((_then(inside, narrow(dim, whole[dim] - high, high)), filling))
        inside = _then(inside, narrow(dim, low, size))
        cut = map_view(tree, narrow(dim, max(-before, 0), size))
        if cut is None:
            raise RefusedError("padding cuts rows apart", node)
        tree = cut
    return (Assembly((*parts, (inside, tree))),)


def _same(access: Access) -> Access:
    return access


def _roll(lowering: Lowering, node: Node) -> Sequence[Assembly]:
    shape, tree = type_of(node.output).shape, lowering.tree(node.inputs[0])
    choices: list[list[tuple[Place, Place]]] = []
    shifts, dims = ints_of(node.attrs, "shifts"), ints_of(node.attrs, "dims")
    for shift, dim in zip(shifts, dims, strict=True):
        size = shape[dim]
        if not isinstance(size, int):
            raise RefusedError("rows are rolled", node)
        by = shift % size if size else 0
        moves = ((0, by, size - by), (size - by, 0, by))
        choices.append(
            [
                (narrow(dim, to, count), narrow(dim, start, count))
                for start, to, count in moves
                if count
            ]
        )
    parts: list[tuple[Place, Tree]] = []
    for chosen in product(*choices):
        place: Place = _same
        part = tree
        for to, of in chosen:
            place = _then(place, to)
            part = map_view(part, of) or part
        parts.append((place, part))
    return (Assembly(tuple(parts)),)


def _repeat_interleave(lowering: Lowering, node: Node) -> Sequence[Assembly]:
    dim, times = int_of(node.attrs, "dim"), int_of(node.attrs, "repeats")
    size = type_of(node.inputs[0]).shape[dim]

    def repeated(access: Access) -> Access:
        return Access(
            (*access.shape[: dim + 1], times, *access.shape[dim + 1 :]),
            (*access.strides[: dim + 1], 0, *access.strides[dim + 1 :]),
            access.offset,
        )

    tree = lowering.viewed(node.inputs[0], repeated, node)
    return (Assembly(((lambda access: access.split(dim, size, times), tree),)),)


TABLE: Mapping[str, Lower] = {
    "reshape": _reshape,
    "permute": _permute,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    "split": _split,
    "flip": _flip,
    "concat": _concat,
    "pad_constant": _pad,
    "roll": _roll,
    "repeat_interleave": _repeat_interleave,
}
