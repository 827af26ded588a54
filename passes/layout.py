"""Arithmetic of layouts: what a permutation of dimensions becomes under other moves.

A permutation ``dims`` stands for ``y = permute(x, dims)``: dimension ``i`` of ``y`` is dimension
``dims[i]`` of ``x``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.ir.shape import Dim, product

Dims = tuple[int, ...]
Shape = tuple[Dim, ...]


def is_identity(dims: Dims) -> bool:
    """Whether nothing moves."""
    return dims == tuple(range(len(dims)))


def composed(first: Dims, then: Dims) -> Dims:
    """One permutation for two, ``first`` before ``then``."""
    return tuple(first[dim] for dim in then)


def inverse(dims: Dims) -> Dims:
    """The permutation that undoes ``dims``."""
    return tuple(sorted(range(len(dims)), key=dims.__getitem__))


def source_shape(shape: Shape, dims: Dims) -> Shape:
    """The shape of ``x`` where ``permute(x, dims)`` has ``shape``."""
    return tuple(shape[i] for i in inverse(dims))


def moves_only_ones(shape: Shape, dims: Dims) -> bool:
    """Whether ``permute(x, dims)``, of this shape, has ``x``'s elements in ``x``'s order."""
    kept = [dim for dim, size in zip(dims, shape, strict=True) if size != 1]
    return kept == sorted(kept)


def without(dims: Dims, gone: Sequence[int]) -> Dims:
    """The permutation of what remains when the dimensions ``gone`` of ``y`` disappear."""
    missing = {dims[i] for i in gone}
    return tuple(
        dim - sum(other < dim for other in missing)
        for i, dim in enumerate(dims)
        if dims[i] not in missing
    )


def widened(dims: Dims, rank: int) -> Dims:
    """The permutation with dimensions in front that stay where they are."""
    extra = rank - len(dims)
    return (*range(extra), *(extra + dim for dim in dims))


def reshaped(shape: Shape, dims: Dims, target: Shape) -> tuple[Shape, Dims] | None:
    """A reshape of ``x`` in place of ``reshape(permute(x, dims), target)``.

    Args:
        shape: the shape of ``permute(x, dims)``.
        dims: the permutation.
        target: the shape wanted of it.

    Returns:
        A shape and a permutation for which ``permute(reshape(x, shape), dims)`` is the same; None
        if elements that ``x`` does not have side by side would share a dimension.
    """
    if 0 in shape or 0 in target:
        return None
    moved = without(dims, [i for i, size in enumerate(shape) if size == 1])
    groups = dict(_aligned(shape, target))
    if sum(run.stop - run.start for run in groups.values()) != len(moved):
        return None
    # A new dimension of size 1 goes beside the one before it, and the first beside the one after
    # it: where they are repeated and joined, as heads are, they then lie side by side.
    place = next((moved[run.start] for run in groups.values()), 0)
    keys: list[int] = []
    for i in range(len(target)):
        if i in groups:
            places = moved[groups[i]]
            place = places[0]
            if places != tuple(range(place, place + len(places))):
                return None
        keys.append(place)
    order = sorted(range(len(target)), key=keys.__getitem__)
    return tuple(target[i] for i in order), inverse(tuple(order))


def _aligned(shape: Shape, target: Shape) -> Iterator[tuple[int, slice]]:
    """The finest runs of dimensions, without those of size 1, that have equally many elements.

    Gives the first dimension of ``target`` in each run, and which of ``shape`` are in it.
    """
    wide = [size for size in shape if size != 1]
    wanted = [i for i, size in enumerate(target) if size != 1]
    start = first = 0
    for end in range(1, len(wide) + 1):
        for last in range(first + 1, len(wanted) + 1):
            run = product(target[i] for i in wanted[first:last])
            if product(wide[start:end]) == run:
                yield wanted[first], slice(start, end)
                start, first = end, last
                break
