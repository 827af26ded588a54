"""Keys and values that are kept in fp8: rounded as the reference rounds, and never beyond it."""

from __future__ import annotations

import math

import pytest
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.reference import PagedState, prepare
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType

from .row_cases import BEYOND, BLOCK, BLOCKS, made

T = sym("T")
HUGE = (500.0, -1e9, math.inf, -math.inf, math.nan, 448.0, 459.0, 60000.0, 1e-4, 0.0)


def written(dtype: DType, stored: DType) -> Graph:
    b = GraphBuilder("g")
    state = b.input("kv", StateType("kv", (LayerState(2, 16, 8, stored),)))
    key = b.input("k", TensorType(dtype, (T, 2, 16)))
    value = b.input("v", TensorType(dtype, (T, 2, 8)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    return b.finish([b.one("kv_write", [state, key, value, slots], {"layer": 0})])


@pytest.mark.interpreted
@pytest.mark.parametrize("stored", [DType.F8E4M3, DType.F8E5M2])
@pytest.mark.parametrize("dtype", [DType.BF16, DType.F32])
@pytest.mark.parametrize("tokens", [1, 7])
def test_bits_are_those_of_the_reference(dtype: DType, stored: DType, tokens: int) -> None:
    from graphopt.codegen.triton.interpreter import run

    graph = written(dtype, stored)
    case, number = made(graph), getattr(torch, dtype.torch_name)
    generator = torch.Generator().manual_seed(tokens)
    key = 4 * torch.randn(tokens, 2, 16, generator=generator)
    key[0, 0, : len(HUGE)] = torch.tensor(HUGE)
    value = torch.randn(tokens, 2, 8, generator=generator)
    slots = torch.randperm(BLOCKS * BLOCK, generator=generator)[:tokens]
    slots[1::3] = -1
    given = [key.to(number), value.to(number), slots]
    type_ = graph.inputs[0].type
    assert isinstance(type_, StateType)
    state = PagedState.allocate(type_, BLOCKS, BLOCK, fill=math.nan)
    (expected,) = prepare(graph.nodes[0])([state, *given], {"T": tokens})
    assert expected.keys[0].view(-1, 2, 16)[slots[0], 0, 0].float() == (
        448 if stored is DType.F8E4M3 else 512
    )
    for variant in case.kernel.variants:
        memory = [
            torch.full((BLOCKS * BLOCK * 2 * size + BEYOND,), math.nan).to(one.dtype)
            for size, one in ((16, expected.keys[0]), (8, expected.values[0]))
        ]
        run(case.kernel, variant, [*memory, *given], {"T": tokens})
        for got, want in zip(memory, (expected.keys[0], expected.values[0]), strict=True):
            numbers = got[: want.numel()].float(), want.flatten().float()
            assert torch.equal(*(one.nan_to_num(1e6) for one in numbers)), variant
            assert got[want.numel() :].float().isnan().all()
