"""Strided accesses reach the elements that the same views of an array hold."""

from __future__ import annotations

from itertools import product
from random import Random

import numpy as np
import pytest

from graphopt.codegen.rows.access import Access, contiguous
from graphopt.ir.shape import evaluate, sym

T = sym("T")


def _elements(access: Access, **env: int) -> np.ndarray:
    """The elements of an access into an array that counts."""
    sizes = [evaluate(size, env) for size in access.shape]
    strides = [evaluate(stride, env) for stride in access.strides]
    start = evaluate(access.offset, env)
    found = [
        start + sum(i * stride for i, stride in zip(place, strides, strict=True))
        for place in product(*map(range, sizes))
    ]
    return np.array(found).reshape(sizes)


def _viewed(rng: Random, access: Access, array: np.ndarray) -> tuple[Access, np.ndarray]:
    rank = array.ndim
    dim = rng.randrange(rank) if rank else 0
    match rng.randrange(7):
        case 0:
            dims = rng.sample(range(rank), rank)
            return access.permute(dims), array.transpose(dims)
        case 1 if rank:
            step, start = rng.randint(1, 2), rng.randint(0, array.shape[dim] - 1)
            cut = np.take(array, range(start, array.shape[dim], step), dim)
            return access.slice(dim, start, cut.shape[dim], step), cut
        case 2 if rank > 1:
            index = rng.randrange(array.shape[dim])
            return access.select(dim, index), np.take(array, index, dim)
        case 3 if rank:
            return access.flip((dim,)), np.flip(array, dim)
        case 4:
            shape = (2, *(4 if size == 1 else size for size in array.shape))
            return access.expand(shape), np.broadcast_to(array, shape)
        case 5 if rank and array.shape[dim] % 2 == 0:
            shape = (*array.shape[:dim], 2, array.shape[dim] // 2, *array.shape[dim + 1 :])
            return access.split(dim, 2, array.shape[dim] // 2), array.reshape(shape)
        case 6:
            shape = tuple(size for size in array.shape if rng.random() < 0.5)
            rest = array.size // int(np.prod(shape, dtype=int)) if array.size else 0
            if rest and int(np.prod(shape, dtype=int)) * rest == array.size:
                found = access.reshape((*shape, rest))
                if found is not None:
                    return found, array.reshape((*shape, rest))
    return access, array


@pytest.mark.parametrize("seed", range(60))
def test_views(seed: int) -> None:
    rng = Random(seed)
    shape = tuple(rng.choice((1, 2, 3, 4, 6)) for _ in range(rng.randint(1, 4)))
    access, array = contiguous(shape), np.arange(int(np.prod(shape))).reshape(shape)
    for _ in range(5):
        access, array = _viewed(rng, access, array)
        if array.size > 5000:
            break
        np.testing.assert_array_equal(_elements(access), array)


def test_reshape_of_symbols() -> None:
    whole = contiguous((T, 4, 6))
    merged = whole.reshape((T * 4, 6))
    assert merged == Access((T * 4, 6), (6, 1))
    assert merged is not None
    assert merged.reshape((T, 2, 2, 3, 2)) == Access((T, 2, 2, 3, 2), (24, 12, 6, 2, 1))
    assert whole.permute((0, 2, 1)).reshape((T, 24)) is None
    assert whole.permute((1, 0, 2)).reshape((1, 4, T, 6)) == Access((1, 4, T, 6), (0, 6, 24, 1))


def test_an_order_of_its_own() -> None:
    access = contiguous((4, T, 6), (1, 0, 2))
    assert access.strides == (6, 24, 1)
    np.testing.assert_array_equal(_elements(contiguous((4, T)), T=3), np.arange(12).reshape(4, 3))
