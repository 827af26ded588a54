"""A step's nodes through PyTorch, from operands to what goes into slots."""

from __future__ import annotations

import pytest
import torch

from graphopt.errors import ArtifactError, GraphoptError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.plan import Step
from graphopt.runtime.executors.torch_nodes import TorchStep, tensor_type

ROWS = TensorType(DType.F32, (sym("T"), 2))


def test_a_step_of_two_nodes() -> None:
    b = GraphBuilder("g")
    x, y = b.input("x", ROWS), b.input("y", ROWS)
    total = b.one("add", [x, y])
    graph = b.finish([b.one("mul", [total, y])])
    found = TorchStep.of(graph, Step("torch", "k", (0, 1), (4, 5), (6,)))
    assert [(value.name, operand) for value, operand in found.operands] == [("x", 4), ("y", 5)]
    assert not found.has_state
    given = {x: torch.ones(3, 2), y: torch.full((3, 2), 2.0)}
    (made,) = found.run(given, {"T": 3})
    assert made.tolist() == [[6.0, 6.0]] * 3
    assert set(given) == {x, y}
    with pytest.raises(GraphoptError, match="step k failed"):
        found.run({x: torch.ones(3, 2), y: torch.ones(5)}, {"T": 3})


def test_state_is_an_operand_and_no_output() -> None:
    b = GraphBuilder("g")
    state = b.input("kv", StateType("kv", (LayerState(1, 2, 2, DType.F32),)))
    key = b.input("k", TensorType(DType.F32, (sym("T"), 1, 2)))
    slots = b.input("slots", TensorType(DType.I64, (sym("T"),)))
    graph = b.finish([b.one("kv_write", [state, key, key, slots], {"layer": 0})])
    found = TorchStep.of(graph, Step("torch", "write", (0,), ("%kv", 1, 2), ()))
    assert found.has_state
    assert found.outputs == ()
    with pytest.raises(ArtifactError, match="no tensor"):
        tensor_type(state)
