from __future__ import annotations

import pytest

from graphopt.errors import UsageError
from graphopt.ir.dtype import DType
from graphopt.ir.types import LayerState
from graphopt.kv_layout import kv_bytes


def test_whole_blocks_take_what_their_elements_take() -> None:
    layer = LayerState(2, 64, 128, DType.BF16)
    assert kv_bytes(layer, 16) == (2 * 16 * 64 * 2, 2 * 16 * 128 * 2)
    assert kv_bytes(LayerState(2, 64, 128, DType.F32), 32) == (2 * 32 * 64 * 4, 2 * 32 * 128 * 4)


def test_what_is_padded() -> None:
    # 5 tokens to 16, 7 entries of a key to 8 in pairs, 6 columns of values to 16.
    assert kv_bytes(LayerState(3, 7, 6, DType.F16), 5) == (3 * 16 * 8 * 2, 3 * 16 * 16 * 2)
    assert kv_bytes(LayerState(3, 7, 6, DType.F32), 17) == (3 * 32 * 7 * 4, 3 * 32 * 16 * 4)


def test_latent_layers_keep_keys_only() -> None:
    assert kv_bytes(LayerState(1, 576, 512, DType.BF16), 16, is_latent=True) == (16 * 576 * 2, 0)


def test_a_block_holds_a_token() -> None:
    with pytest.raises(UsageError, match="no token"):
        kv_bytes(LayerState(1, 4, 4, DType.F32), 0)
