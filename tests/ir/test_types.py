from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType, dims_of, nbytes, numel

T = sym("T")
FULL = LayerState(8, 64, 64, DType.BF16)
WINDOWED = LayerState(8, 64, 32, DType.BF16, 512)


def test_text() -> None:
    assert str(TensorType(DType.BF16, (T, 2048))) == "bf16[T, 2048]"
    assert str(TensorType(DType.BOOL, ())) == "bool[]"
    state = StateType("kv", (FULL, FULL, WINDOWED, FULL))
    assert str(state) == (
        "kv[2 x (8, 64, 64, bf16), 1 x (8, 64, 32, bf16, 512), 1 x (8, 64, 64, bf16)]"
    )


def test_sizes() -> None:
    x = TensorType(DType.BF16, (T, 3))
    assert numel(x) == 3 * T
    assert nbytes(x) == 6 * T
    assert nbytes(StateType("kv", (FULL,))) == 0
    assert list(dims_of(x)) == [T, 3]
    assert list(dims_of(StateType("kv", (FULL,)))) == []
    state = StateType("kv", (FULL, WINDOWED))
    assert state.bytes_in(FULL) == 8 * 128 * 2
    assert state.bytes_per_token == 8 * 128 * 2 + 8 * 96 * 2


def test_a_latent_state_keeps_no_values_of_its_own() -> None:
    layer = LayerState(1, 576, 512, DType.BF16)
    state = StateType("latent", (layer,) * 61)
    assert str(state) == "latent[61 x (1, 576, 512, bf16)]"
    assert state.bytes_in(layer) == 2 * 576
    assert state.bytes_per_token == 70_272
    assert StateType("kv", state.layers).bytes_per_token == 61 * 2 * (576 + 512)
