"""Against numpy's own permutes and reshapes."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from graphopt.ir.shape import sym
from graphopt.passes.layout import (
    composed,
    inverse,
    is_identity,
    moves_only_ones,
    reshaped,
    source_shape,
    widened,
    without,
)

T = sym("T")


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(int(np.prod(shape))).reshape(shape)


def random_case(seed: int) -> tuple[np.ndarray, tuple[int, ...], Random]:
    rng = Random(seed)
    x = numbered(tuple(rng.choice((1, 2, 3, 5)) for _ in range(rng.randint(1, 5))))
    dims = list(range(x.ndim))
    rng.shuffle(dims)
    return x, tuple(dims), rng


@pytest.mark.parametrize("seed", range(50))
def test_permutations_compose_and_undo_each_other(seed: int) -> None:
    x, first, rng = random_case(seed)
    then = tuple(rng.sample(range(x.ndim), x.ndim))
    both = x.transpose(first).transpose(then)
    assert np.array_equal(x.transpose(composed(first, then)), both)
    assert is_identity(composed(first, inverse(first)))
    assert source_shape(x.transpose(first).shape, first) == x.shape
    assert np.array_equal(x[None].transpose(widened(first, x.ndim + 1))[0], x.transpose(first))


@pytest.mark.parametrize("seed", range(50))
def test_what_remains_when_dimensions_disappear(seed: int) -> None:
    x, dims, rng = random_case(seed)
    gone = tuple(sorted(rng.sample(range(x.ndim), rng.randint(0, x.ndim))))
    wanted = x.transpose(dims).sum(gone)
    before = x.sum(tuple(dims[i] for i in gone))
    assert np.array_equal(before.transpose(without(dims, gone)), wanted)


@pytest.mark.parametrize("seed", range(50))
def test_a_permute_that_moves_only_ones_is_a_reshape(seed: int) -> None:
    x, dims, _ = random_case(seed)
    moved = x.transpose(dims)
    assert moves_only_ones(moved.shape, dims) == np.array_equal(x.reshape(moved.shape), moved)


@pytest.mark.parametrize("seed", range(300))
def test_a_reshape_goes_before_the_permute_or_not_at_all(seed: int) -> None:
    x, dims, rng = random_case(seed)
    moved = x.transpose(dims)
    sizes: list[int] = []
    merged = False
    for size in moved.shape:
        match rng.randrange(4):
            case 0:
                sizes += [size, 1]
            case 1:
                sizes += [1, size]
            case 2 if sizes:
                merged |= sizes[-1] > 1 and size > 1
                sizes[-1] *= size
            case _:
                sizes.append(size)
    target = tuple(sizes)
    found = reshaped(moved.shape, dims, target)
    if found is None:
        assert merged
        return
    shape, after = found
    assert np.array_equal(x.reshape(shape).transpose(after), moved.reshape(target))


def test_sizes_may_be_symbols() -> None:
    assert reshaped((4, T, 16), (1, 0, 2), (4, T, 8, 2)) == ((T, 4, 8, 2), (1, 0, 2, 3))
    assert reshaped((1, 4, T, 16), (0, 2, 1, 3), (4, T, 16)) == ((T, 4, 16), (1, 0, 2))
    assert reshaped((8, T), (1, 0), (8 * T, 1)) is None
    assert reshaped((4, T, 0), (1, 0, 2), (T, 4, 0)) is None
    assert not moves_only_ones((4, T, 8), (1, 0, 2))
    assert moves_only_ones((1, T, 8), (1, 0, 2))
