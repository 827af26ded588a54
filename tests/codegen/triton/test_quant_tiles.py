"""How products with quantized weights are cut: bounds, splits of K, memory."""

from __future__ import annotations

from itertools import product

import pytest

from graphopt.codegen.triton.quant_tiles import Product, fp8_tiles, product_tiles
from graphopt.gpu_packing import CHUNK_ROWS, GROUPS, GpuPacking
from graphopt.ir.dtype import DType

SHAPES = ((4096, 4096), (6144, 4096), (4096, 14336), (151936, 4096), (44, 70), (64, 31))


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_a_weight_is_taken_once(
    shape: tuple[int, int], group: int, bits: int, arch: int, rounds: bool
) -> None:
    rows, columns = shape
    for parts in (((0, rows, 1),), ((0, rows // 2, 1), (rows // 2, rows, 1))):
        packing = GpuPacking(rows, columns, bits, group, parts)
        tiles = product_tiles(Product(packing, DType.BF16, arch, rounds=rounds))
        bounds = [1 << 30 if one.below is None else one.below for one in tiles]
        assert bounds == sorted(set(bounds))
        assert tiles[-1].below is None
        for one in tiles:
            assert packing.part_chunks[0] * CHUNK_ROWS % one.columns == 0
            assert one.below is None or one.rows >= one.below
            assert (one.resident > 0) == (rounds and not one.is_left)
            if one.is_left:
                assert (one.split - 1) * one.steps < packing.steps <= one.split * one.steps
            else:
                assert one.split == 1
                assert arch >= 90 or rounds


@pytest.mark.parametrize("arch", [89, 90])
@pytest.mark.parametrize("depth", [32, 128])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_a_weight_in_fp8_is_taken_once(
    shape: tuple[int, int], depth: int, arch: int
) -> None:
    width, k = shape
    for parts in (1, 2):
        tiles = fp8_tiles(width, parts, k, depth, arch)
        bounds = [1 << 30 if one.below is None else one.below for one in tiles]
        assert bounds == sorted(set(bounds))
        assert tiles[-1].below is None
        steps = -(-k // depth)
        for one in tiles:
            assert one.resident or (one.split - 1) * one.steps < steps <= one.split * one.steps


def test_rows_that_are_made_take_room() -> None:
    packing = GpuPacking.whole(4096, 4096, 8, 64)
    for rounds in (True, False):
        plain, made = (
            product_tiles(Product(packing, DType.BF16, 90, rounds=rounds, is_plain=is_plain))
            for is_plain in (True, False)
        )
        assert max(one.rows * one.columns for one in made) <= max(
            one.rows * one.columns for one in plain
        )
        assert sum(one.columns for one in made) < sum(one.columns for one in plain)


def test_each_thread_loads_sixteen_bytes_of_a_weight_whose_rows_are_rounded() -> None:
    for group, bits, arch, is_plain in product(GROUPS, (4, 8), (80, 90), (True, False)):
        packing = GpuPacking.whole(4096, 4096, bits, group)
        made = Product(packing, DType.BF16, arch, rounds=True, is_plain=is_plain)
        for one in product_tiles(made):
            assert one.columns * group >= 16 * 32 * one.warps


def test_a_scale_for_each_row_leaves_tiles_of_whole_lines() -> None:
    packing = GpuPacking.whole(4096, 4096, 8, 4096)
    whole, grouped = (
        product_tiles(Product(one, DType.BF16, 90, rounds=True))
        for one in (packing, GpuPacking.whole(4096, 4096, 8, 64))
    )
    assert whole == grouped


def test_few_columns_are_split_and_many_are_not() -> None:
    def split(rows: int) -> int:
        packing = GpuPacking.whole(rows, 4096, 4, 128)
        return product_tiles(Product(packing, DType.BF16, 90, rounds=False))[0].split

    assert split(1024) > 4
    assert split(151936) == 1
