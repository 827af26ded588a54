"""Where the elements of a value lie in memory: a shape with strides.

before:  a value and the views of it (reshape, permute, expand, slice, select, flip)
after:   element ``i, j, ..`` lies at ``offset + i * strides[0] + j * strides[1] + ..``

Sizes and strides are expressions over the sizes of a step, so that what is kept of a tensor
``[H, T, D]`` strides over ``T * D`` elements from head to head. A view that strides cannot say,
such as the reshape of a permuted tensor, is None: whoever wants it makes a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from graphopt.ir.shape import Dim, evaluate, product, symbols

# Stands for every symbol where two sizes of a reshape are compared: larger than what divides them.
_LARGE = 1_000_003


@dataclass(frozen=True, slots=True)
class Access:
    """Elements of a buffer, arranged in a shape. Units are elements."""

    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    def permute(self, dims: Sequence[int]) -> Access:
        """The dimensions in another order."""
        return Access(
            tuple(self.shape[dim] for dim in dims),
            tuple(self.strides[dim] for dim in dims),
            self.offset,
        )

    def expand(self, shape: tuple[Dim, ...]) -> Access:
        """Repeated along dimensions of size 1 and new leading ones."""
        if shape == self.shape:
            return self
        new = len(shape) - len(self.shape)
        strides = tuple(
            stride if mine == its else 0
            for mine, its, stride in zip(self.shape, shape[new:], self.strides, strict=True)
        )
        return Access(shape, (0,) * new + strides, self.offset)

    def slice(self, dim: int, start: Dim, size: Dim, step: int = 1) -> Access:
        """Elements ``start, start + step, ..`` along ``dim``, ``size`` of them."""
        return Access(
            (*self.shape[:dim], size, *self.shape[dim + 1 :]),
            (*self.strides[:dim], self.strides[dim] * step, *self.strides[dim + 1 :]),
            self.offset + start * self.strides[dim],
        )

    def select(self, dim: int, index: Dim) -> Access:
        """The elements at ``index`` along ``dim``, which disappears."""
        return Access(
            (*self.shape[:dim], *self.shape[dim + 1 :]),
            (*self.strides[:dim], *self.strides[dim + 1 :]),
            self.offset + index * self.strides[dim],
        )

    def flip(self, dims: Sequence[int]) -> Access:
        """In reverse order along ``dims``."""
        offset = self.offset
        for dim in dims:
            offset = offset + (self.shape[dim] - 1) * self.strides[dim]
        strides = (-s if i in dims else s for i, s in enumerate(self.strides))
        return Access(self.shape, tuple(strides), offset)

    def split(self, dim: int, outer: Dim, inner: Dim) -> Access:
        """``dim`` as two dimensions."""
        stride = self.strides[dim]
        return Access(
            (*self.shape[:dim], outer, inner, *self.shape[dim + 1 :]),
            (*self.strides[:dim], inner * stride, stride, *self.strides[dim + 1 :]),
            self.offset,
        )

    def reshape(self, shape: tuple[Dim, ...]) -> Access | None:
        """The elements in the same order under another shape; None if strides cannot say it."""
        if shape == self.shape:
            return self
        strides: list[Dim] = []
        mine = [pair for pair in zip(self.shape, self.strides, strict=True) if pair[0] != 1]
        rest = [size for size in shape if size != 1]
        wanted: list[Dim] = []
        while mine and rest:
            old, new = [mine.pop(0)], [rest.pop(0)]
            while (a := product(size for size, _ in old)) != (b := product(new)):
                if _sample(a) < _sample(b) and mine:
                    old.append(mine.pop(0))
                elif _sample(a) > _sample(b) and rest:
                    new.append(rest.pop(0))
                else:
                    return None
            for (_, stride), (size, inner) in pairwise(old):
                if stride != size * inner:
                    return None
            wanted.extend(product((old[-1][1], *new[i + 1 :])) for i in range(len(new)))
        if mine or rest:
            return None
        found = iter(wanted)
        strides = [0 if size == 1 else next(found) for size in shape]
        return Access(shape, tuple(strides), self.offset)


def contiguous(shape: tuple[Dim, ...], order: Sequence[int] | None = None) -> Access:
    """A buffer of its own: row-major, or with the dimensions in ``order``, outermost first."""
    strides: dict[int, Dim] = {}
    inner: Dim = 1
    for dim in reversed(order if order is not None else range(len(shape))):
        strides[dim] = inner
        inner = inner * shape[dim]
    return Access(shape, tuple(strides[dim] for dim in range(len(shape))))


def _sample(size: Dim) -> int:
    return evaluate(size, dict.fromkeys(symbols(size), _LARGE))
