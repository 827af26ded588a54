from __future__ import annotations

import math

import pytest
import torch

from graphopt.errors import IRError
from graphopt.ir.dtype import DType
from graphopt.ir.reference_state import PagedState
from graphopt.ir.types import LayerState, StateType

TYPE = StateType("kv", (LayerState(2, 8, 6, DType.BF16), LayerState(1, 4, 4, DType.F32)))


def test_allocation() -> None:
    state = PagedState.allocate(TYPE, 5, 3, fill=math.nan)
    assert [tuple(t.shape) for t in state.keys] == [(5, 3, 2, 8), (5, 3, 1, 4)]
    assert [tuple(t.shape) for t in state.values] == [(5, 3, 2, 6), (5, 3, 1, 4)]
    assert [t.dtype for t in state.keys] == [torch.bfloat16, torch.float32]
    assert bool(state.values[1].isnan().all())
    assert state.block_size == 3


def test_copies_share_nothing() -> None:
    state = PagedState.allocate(TYPE, 5, 3)
    for copy in (state.clone(), state.to(torch.float32)):
        copy.keys[1].fill_(1)
        copy.values[1].fill_(1)
    assert not state.keys[1].any()
    assert not state.values[1].any()
    assert state.to(torch.float64).keys[0].dtype == torch.float64


def test_values_of_a_latent_state_are_views_of_its_keys() -> None:
    latent = StateType("latent", (LayerState(1, 6, 4, DType.BF16),))
    state = PagedState.allocate(latent, 5, 3, fill=math.nan)
    for one in (state, state.clone(), state.to(torch.float32)):
        assert one.is_latent
        one.keys[0].copy_(torch.arange(6.0))
        assert one.values[0].tolist() == [[[[0.0, 1.0, 2.0, 3.0]]] * 3] * 5
        one.keys[0].zero_()
    assert PagedState.allocate(latent, 5, 3, fill=None).keys[0].shape == (5, 3, 1, 6)


def test_other_kinds_are_refused() -> None:
    with pytest.raises(IRError, match="only keys and values"):
        PagedState.allocate(StateType("conv", ()), 1, 1)
