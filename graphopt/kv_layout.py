"""How much memory blocks of keys and values take on a CPU: the sizes of the layout in ``kv.h``.

A block of ``B`` tokens is padded to whole panels of 16 tokens, keys to whole pairs of elements
(of bf16 and f16), values to whole vectors of 16 columns. A latent layer keeps keys only.
"""

from __future__ import annotations

from graphopt.errors import UsageError
from graphopt.ir.types import LayerState

PANEL = 16
LANES = 16


def kv_bytes(layer: LayerState, block_size: int, *, is_latent: bool = False) -> tuple[int, int]:
    """Bytes that one block takes in ``layer``: of its keys, and of its values.

    A layer's two regions are ``num_blocks`` times as large, and begin at multiples of 64 bytes.

    Args:
        layer: what the layer keeps of a token.
        block_size: tokens in a block.
        is_latent: whether the values lie within the keys.

    Raises:
        UsageError: a block would hold no token.

        kv_bytes(LayerState(2, 64, 64, DType.BF16), 16)  # (4096, 4096)
    """
    if block_size < 1:
        raise UsageError("a block holds no token", got=block_size, expected="at least 1")
    pair = 2 if layer.dtype.nbytes == 2 else 1
    rows = layer.heads * _round_up(block_size, PANEL) * layer.dtype.nbytes
    keys = rows * _round_up(layer.key_size, pair)
    values = 0 if is_latent else rows * _round_up(layer.value_size, LANES)
    return keys, values


def _round_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit
