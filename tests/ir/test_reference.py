from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import VerifyError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Node, Value
from graphopt.ir.ops import OPS
from graphopt.ir.reference import PagedState, prepare, torch_dtype
from graphopt.ir.shape import evaluate
from graphopt.ir.types import StateType, TensorType

from .sample_tensors import inputs_for, sizes_of_step
from .samples import SAMPLES


def test_every_operator_has_a_sample() -> None:
    assert set(SAMPLES) == set(OPS)


@pytest.mark.parametrize("op", sorted(OPS))
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_inference_agrees_with_the_reference(op: str, seed: int) -> None:
    rng = Random(seed)
    sample, env = SAMPLES[op](rng), sizes_of_step(rng)
    builder = GraphBuilder("one")
    values = [builder.input(str(i), type_) for i, type_ in enumerate(sample.types)]
    outputs = builder.node(op, values, sample.attrs)
    results = prepare(builder.nodes[0])(inputs_for(sample, env, seed), env)
    assert len(results) == len(outputs)
    for value, result in zip(outputs, results, strict=True):
        if isinstance(value.type, StateType):
            assert isinstance(result, PagedState)
            continue
        assert result.dtype == torch_dtype(value.type.dtype)
        assert list(result.shape) == [evaluate(dim, env) for dim in value.type.shape]


def test_an_unknown_operator_is_named() -> None:
    node = Node("frobnicate", (), (Value("0", TensorType(DType.F32, ())),))
    with pytest.raises(VerifyError, match="frobnicate"):
        prepare(node)


def test_creation_takes_place_on_the_device() -> None:
    builder = GraphBuilder("one")
    builder.node("full", (), {"shape": (2,), "dtype": DType.F32, "value": 1})
    builder.node("iota", (), {"end": 3})
    builder.node(
        "aten.arange.default",
        (),
        {"args": (4, None, None, "cpu")},
        types=[TensorType(DType.I64, (4,))],
    )
    for node in builder.nodes:
        (made,) = prepare(node, device="meta")((), {})
        assert made.device == torch.device("meta")
