"""Launches that make rows for a product: how much at a time, and in which order."""

from __future__ import annotations

import pytest

from graphopt.codegen.triton.fill import fill_block, fill_variant
from graphopt.codegen.triton.kernel import Variant
from graphopt.ir.shape import sym


@pytest.mark.parametrize(
    ("k", "block"), [(4096, 1024), (11008, 256), (14336, 1024), (96, 128), (32, 32), (4100, 1024)]
)
def test_blocks_are_equal_or_large(k: int, block: int) -> None:
    assert fill_block(k) == block


def test_rows_come_first_and_the_bounds_are_the_products() -> None:
    product = Variant("KERNEL_NAME_many", {"BLOCK_M": 64}, (132,), {"T": 64}, 4, 3)
    found = fill_variant(4096, sym("T"), product)
    first, then = found.launches
    assert (first.function, first.grid, first.below) == ("KERNEL_NAME_rows", (sym("T"),), {"T": 64})
    assert first.constants == {"BLOCK_M": 1, "BLOCK_K": 1024}
    assert (then.function, then.constants, then.below) == ("KERNEL_NAME_many", {"BLOCK_M": 64}, {})
    assert then.num_warps == 4
