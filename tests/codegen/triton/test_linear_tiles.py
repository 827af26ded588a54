"""Tiles of products: they cover everything, and fill the device."""

from __future__ import annotations

from itertools import product

import pytest

from graphopt.codegen.triton.linear_tiles import PROCESSORS, Size, few_tiles, many_tiles
from graphopt.ir.dtype import DType

WIDTHS = (1, 22, 44, 512, 4096, 28672, 262144)
DEPTHS = (1, 70, 96, 2048, 2560, 14336)
TYPES = (DType.BF16, DType.F32)


def sizes() -> list[Size]:
    return [
        Size(width, parts, k, dtype, in_blocks, arch)
        for width, k, parts, dtype, in_blocks, arch in product(
            WIDTHS, DEPTHS, (1, 2), TYPES, (True, False), PROCESSORS
        )
    ]


def test_every_column_of_x_is_taken_once() -> None:
    for size in sizes():
        for one in few_tiles(size):
            assert one.split * one.steps(size.k) * one.depth >= size.k
            assert (one.split - 1) * one.steps(size.k) * one.depth < size.k
            assert one.columns >= 16
            assert one.depth >= 16


def test_tiles_end_with_any_number_of_rows() -> None:
    for size in sizes():
        bounds = [one.below or 1 << 30 for one in many_tiles(size)]
        assert bounds == sorted(bounds)
        assert many_tiles(size)[-1].below is None


@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (6144, 4096), (4096, 14336), (2560, 10240)])
def test_few_rows_fill_the_device(n: int, k: int) -> None:
    for one in few_tiles(Size(n, 1, k, DType.BF16, True, 90)):
        assert -(-n // one.columns) * one.split >= 132


def test_small_models_fill_the_device_too() -> None:
    for n, k in ((1152, 896), (896, 896), (896, 4864)):
        size = Size(n, 1, k, DType.BF16, True, 90)
        one = few_tiles(size)[0]
        assert -(-n // one.columns) * one.split >= 100, (n, k, one)


def test_wide_products_are_not_split() -> None:
    for one in few_tiles(Size(128256, 1, 4096, DType.BF16, False, 90)):
        assert one.split == 1


def test_a_loop_is_flat_where_one_product_is_in_it() -> None:
    for size in sizes():
        for one in many_tiles(size):
            assert not one.is_flat or (size.parts == 1 and not one.is_special)
            assert not (one.is_flat or one.is_special) or size.arch >= 90


def test_what_loads_apart_is_never_the_first_pick() -> None:
    for size in sizes():
        seen: set[int | None] = set()
        for one in many_tiles(size):
            assert one.below in seen or not one.is_special
            seen.add(one.below)
