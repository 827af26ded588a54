"""How products with quantized weights are cut: bounds, splits of K, memory."""

from __future__ import annotations

import pytest

from graphopt.codegen.triton.quant_tiles import Product, product_tiles
from graphopt.gpu_packing import CHUNK_ROWS, GROUPS, GpuPacking
from graphopt.ir.dtype import DType

SHAPES = ((4096, 4096), (6144, 4096), (4096, 14336), (151936, 4096), (44, 70), (64, 31))


@pytest.mark.parametrize("arch", [80, 89, 90])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_a_weight_is_taken_once(
    shape: tuple[int, int], group: int, bits: int, arch: int
) -> None:
    rows, columns = shape
    for parts in (((0, rows, 1),), ((0, rows // 2, 1), (rows // 2, rows, 1))):
        packing = GpuPacking(rows, columns, bits, group, parts)
        tiles = product_tiles(Product(packing, DType.BF16, arch, rounds=False))
        bounds = [1 << 30 if one.below is None else one.below for one in tiles]
        assert bounds == sorted(set(bounds))
        assert tiles[-1].below is None
        for one in tiles:
            assert packing.part_chunks[0] * CHUNK_ROWS % one.columns == 0
            assert one.below is None or one.rows >= one.below
            if one.is_left:
                assert (one.split - 1) * one.steps < packing.steps <= one.split * one.steps
            else:
                assert one.split == 1
                assert arch >= 90


def test_few_columns_are_split_and_many_are_not() -> None:
    def split(rows: int) -> int:
        packing = GpuPacking.whole(rows, 4096, 4, 128)
        return product_tiles(Product(packing, DType.BF16, 90, rounds=False))[0].split

    assert split(1024) > 4
    assert split(151936) == 1
