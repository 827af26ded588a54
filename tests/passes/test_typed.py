from __future__ import annotations

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Value
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.typed import dtype_of, last_size, shape_of


def test_tensors_have_sizes_and_states_do_not() -> None:
    x = Value("x", TensorType(DType.BF16, (sym("T"), 8)))
    assert (shape_of(x), dtype_of(x), last_size(x)) == ((sym("T"), 8), DType.BF16, 8)
    number = Value("n", TensorType(DType.F32, ()))
    assert (shape_of(number), last_size(number)) == ((), 0)
    state = Value("kv", StateType("kv", (LayerState(1, 2, 2, DType.F32),)))
    assert (shape_of(state), dtype_of(state), last_size(state)) == ((), None, 0)
