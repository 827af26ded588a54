"""Rows that a launch of their own makes in the workspace, for the product that follows it.

before:  a product of many rows that are computed first: normed, gathered, rounded
after:   a variant of two launches: programs that make a row each, then the product
"""

from __future__ import annotations

from dataclasses import replace

from graphopt.ir.shape import Dim

from .kernel import Variant
from .tile_scope import power_of_two

# Columns of a row that a program makes at a time, at the most.
_BLOCK = 1024


def fill_block(k: int) -> int:
    """Columns of a row that are made at a time: all of equal blocks, if they are not too small."""
    block = min(_BLOCK, power_of_two(k))
    while k % block and block > _BLOCK // 4:
        block //= 2
    return block if k % block == 0 else min(_BLOCK, power_of_two(k))


def fill_variant(k: int, rows: Dim, product: Variant) -> Variant:
    """A variant that makes rows first, within the bounds of the product that reads them.

    Args:
        k: columns of a row.
        rows: how many.
        product: what is launched then.
    """
    fill = {"BLOCK_M": 1, "BLOCK_K": fill_block(k)}
    warps = max(1, min(4, fill["BLOCK_K"] // 256))  # each thread loads eight numbers at once
    then = (replace(product, below={}),)
    return Variant("KERNEL_NAME_rows", fill, (rows,), product.below, warps, 2, then=then)
