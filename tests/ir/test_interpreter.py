from __future__ import annotations

import weakref
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import IRError
from graphopt.ir.builder import GraphBuilder, without_dead_nodes
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, SourceLocation
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.reference import PagedState, torch_dtype
from graphopt.ir.shape import evaluate, sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ir.widen import widen

from .graphs import Grower
from .sample_tensors import sizes_of_step, tensor_for

T = sym("T")
SHAPELY = frozenset(
    [
        "neg",
        "abs",
        "exp",
        "sin",
        "cos",
        "tanh",
        "sigmoid",
        "silu",
        "relu",
        "gelu",
        "softplus",
        "add",
        "sub",
        "mul",
        "div",
        "maximum",
        "minimum",
        "where",
        "softmax",
        "sum",
        "mean",
        "permute",
        "expand",
        "concat",
        "linear",
        "matmul",
        "rms_norm",
        "layer_norm",
        "clamp",
        "cast",
    ]
)


def swiglu() -> Graph:
    b = GraphBuilder("swiglu")
    x = b.input("x", TensorType(DType.BF16, (T, 4)))
    gate, up = (b.weight(name, TensorType(DType.BF16, (6, 4))) for name in ("gate", "up"))
    hidden = b.one("mul", [b.one("silu", [b.one("linear", [x, gate])]), b.one("linear", [x, up])])
    return b.finish([b.one("linear", [hidden, b.weight("down", TensorType(DType.BF16, (4, 6)))])])


def weights_of(graph: Graph) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for value in graph.weights:
        assert isinstance(value.type, TensorType)
        found[value.name] = tensor_for(value.type, {}, generator)
    return found


def eager(x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    hidden = torch.nn.functional.silu(x @ weights["gate"].T) * (x @ weights["up"].T)
    return hidden @ weights["down"].T


def test_bf16_rounds_as_eager_pytorch_does() -> None:
    graph = swiglu()
    weights, x = weights_of(graph), torch.randn(5, 4).bfloat16()
    (y,) = Interpreter(graph, weights).run({"x": x})
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, eager(x, weights))


def test_a_widened_graph_takes_the_same_weights() -> None:
    graph = swiglu()
    weights, x = weights_of(graph), torch.randn(5, 4)
    (y,) = Interpreter(widen(graph, DType.F64), weights).run({"x": x.double()})
    expected = eager(x.double(), {name: tensor.double() for name, tensor in weights.items()})
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_graphs_run_and_keep_their_types(seed: int) -> None:
    rng = Random(seed)
    grower = Grower(rng, odd=False)
    while len(grower.builder.nodes) < 8:
        grower.native()
    graph = only(SHAPELY, grower.finish())
    env = sizes_of_step(rng)
    generator = torch.Generator().manual_seed(seed)
    inputs: dict[str, Any] = {}
    for value in graph.inputs:
        if isinstance(value.type, StateType):
            inputs[value.name] = PagedState.allocate(value.type, 2, 2)
        else:
            inputs[value.name] = tensor_for(value.type, env, generator)
    seen: list[Node] = []

    def observe(node: Node, outputs: tuple[Any, ...]) -> None:
        seen.append(node)
        for value, output in zip(node.outputs, outputs, strict=True):
            assert isinstance(value.type, TensorType)
            assert output.dtype == torch_dtype(value.type.dtype)
            assert list(output.shape) == [evaluate(dim, env) for dim in value.type.shape]

    outputs = Interpreter(graph, weights_of(graph)).run(inputs, observe=observe)
    assert tuple(seen) == graph.nodes
    assert len(outputs) == len(graph.outputs)


def only(ops: frozenset[str], graph: Graph) -> Graph:
    """The part of a graph up to the first operator that needs inputs of a certain kind."""
    stop = next((i for i, node in enumerate(graph.nodes) if node.op not in ops), len(graph.nodes))
    outputs = [value for node in graph.nodes[:stop] for value in node.outputs]
    return without_dead_nodes(
        Graph(graph.name, graph.inputs, graph.weights, graph.nodes[:stop], tuple(outputs))
    )


def test_values_are_freed_after_their_last_use() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T,)))
    y = b.one("neg", [x])
    z = b.one("exp", [y])
    b.one("neg", [z])
    graph = b.finish([b.one("sin", [z])])
    made: list[weakref.ref[torch.Tensor]] = []

    def observe(node: Node, outputs: tuple[Any, ...]) -> None:
        alive = [ref() is not None for ref in made]
        expected = {0: [], 1: [True], 2: [False, True], 3: [False, True, False]}
        assert alive == expected[len(made)]
        made.append(weakref.ref(outputs[0]))

    Interpreter(graph, {}).run({"x": torch.ones(3)}, observe=observe)
    assert len(made) == 4


def test_arrays_are_taken_and_symbols_bound() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.I64, (T,)))
    count = b.one("full", [], {"shape": (T + 1,), "dtype": DType.I64, "value": 2 * T})
    graph = b.finish([x, count])
    same, counted = Interpreter(graph, {}).run({"x": np.arange(3)})
    assert same.tolist() == [0, 1, 2]
    assert counted.tolist() == [6, 6, 6, 6]


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "input is missing"),
        ({"x": torch.ones(2, 4).bfloat16(), "z": torch.ones(1)}, "no such input"),
        ({"x": torch.ones(2, 4)}, "wrong element type"),
        ({"x": torch.ones(2, 5).bfloat16()}, "shape of an input does not fit"),
        ({"x": torch.ones(4).bfloat16()}, "shape of an input does not fit"),
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, torch.Tensor], words: str) -> None:
    graph = swiglu()
    with pytest.raises(IRError, match=words):
        Interpreter(graph, weights_of(graph)).run(inputs)


@pytest.mark.parametrize(
    ("up", "words"),
    [
        (None, "weight is missing"),
        (torch.ones(4, 6).bfloat16(), "wrong shape"),
        (torch.ones(6, 4).int(), "wrong element type"),
    ],
)
def test_weights_that_do_not_fit(up: torch.Tensor | None, words: str) -> None:
    graph = swiglu()
    weights = weights_of(graph)
    del weights["up"]
    if up is not None:
        weights["up"] = up
    with pytest.raises(IRError, match=words) as caught:
        Interpreter(graph, weights)
    assert caught.value.where == "weight up"


def stateful() -> Graph:
    b = GraphBuilder("g")
    kv = b.input("kv", StateType("kv", (LayerState(1, 2, 2, DType.F32),)))
    k = b.input("k", TensorType(DType.F32, (T, 1, 2)))
    slots = b.input("slots", TensorType(DType.I64, (T,)))
    return b.finish([b.one("kv_write", [kv, k, k, slots], {"layer": 0})])


def test_state_is_updated_in_place() -> None:
    graph = stateful()
    state = PagedState.allocate(StateType("kv", (LayerState(1, 2, 2, DType.F32),)), 2, 2)
    kept = state.clone()
    inputs = {"kv": state, "k": torch.ones(1, 1, 2), "slots": torch.tensor([3])}
    (same,) = Interpreter(graph, {}).run(inputs)
    assert same is state
    assert state.keys[0].sum() == 2
    assert not kept.keys[0].any()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (torch.ones(2), "not a paged state"),
        (PagedState((), (), 2), "number of layers"),
        (
            PagedState.allocate(StateType("kv", (LayerState(1, 2, 3, DType.F32),)), 2, 2),
            "does not fit",
        ),
        (
            PagedState.allocate(StateType("kv", (LayerState(1, 2, 2, DType.BF16),)), 2, 2),
            "does not fit",
        ),
        (
            PagedState.allocate(StateType("latent", (LayerState(1, 2, 2, DType.F32),)), 2, 2),
            "another kind",
        ),
    ],
)
def test_states_that_do_not_fit(state: object, words: str) -> None:
    inputs = {"kv": state, "k": torch.ones(1, 1, 2), "slots": torch.tensor([3])}
    with pytest.raises(IRError, match=words):
        Interpreter(stateful(), {}).run(inputs)


def test_a_node_that_cannot_run_is_named() -> None:
    b = GraphBuilder("g")
    ids = b.input("ids", TensorType(DType.I64, (T,)))
    table = b.weight("table", TensorType(DType.F32, (3, 2)))
    loc = SourceLocation("modeling.py", 7, "model.embed")
    graph = b.finish([b.one("embed", [ids, table], loc=loc)])
    with pytest.raises(IRError, match="embed cannot run") as caught:
        Interpreter(graph, {"table": torch.ones(3, 2)}).run({"ids": torch.tensor([5])})
    assert "modeling.py:7 in model.embed" in str(caught.value)
    assert caught.value.got == "int64[1], float32[3, 2]"
