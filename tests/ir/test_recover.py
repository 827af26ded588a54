"""What packed weights were made from is told from them, to the bit, or not at all."""

import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.recover import recover
from graphopt.ir.reference import torch_dtype
from graphopt.ir.types import TensorType


def told(graph: Graph) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights, and what is told of them from what the graph makes of them."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for value in graph.weights:
        assert isinstance(value.type, TensorType)
        sizes = [size for size in value.type.shape if isinstance(size, int)]
        made = torch.randn(sizes, generator=generator)
        weights[value.name] = made.to(torch_dtype(value.type.dtype))
    outputs = Interpreter(graph, weights).run({})
    return weights, recover(graph, dict(zip(graph.outputs, outputs, strict=True)))


def same(graph: Graph) -> bool:
    weights, found = told(graph)
    return found.keys() == weights.keys() and all(
        found[name].equal(tensor) and found[name].dtype == tensor.dtype
        for name, tensor in weights.items()
    )


def test_what_moves_numbers_is_undone() -> None:
    b = GraphBuilder("g")
    q, k = (b.weight(n, TensorType(DType.F32, (s, 4))) for n, s in (("q", 6), ("k", 2)))
    wide = b.weight("wide", TensorType(DType.BF16, (4, 3)))
    packed = b.one("concat", [q, k], {"dim": 0})
    turned = b.one("permute", [wide], {"dims": (1, 0)})
    outputs = [
        b.one("mul", [b.one("reshape", [packed], {"shape": (4, 8)})], {"scalar": 0.25}),
        b.one("cast", [turned], {"dtype": DType.F32}),
    ]
    assert same(b.finish(outputs))


def test_a_weight_in_parts_is_put_together() -> None:
    b = GraphBuilder("g")
    w = b.weight("kv_b", TensorType(DType.F32, (6, 5)))
    heads = b.one("reshape", [w], {"shape": (2, 3, 5)})
    key = b.one("slice", [heads], {"dim": 1, "start": 0, "end": 2})
    value = b.one("slice", [heads], {"dim": 1, "start": 2, "end": 3})
    both = b.one("permute", [key], {"dims": (0, 2, 1)})
    assert same(b.finish([both, value]))


def test_splits_and_selects() -> None:
    b = GraphBuilder("g")
    w = b.weight("w", TensorType(DType.F32, (5, 4)))
    v = b.weight("v", TensorType(DType.F32, (2, 4)))
    first, second = b.node("split", [w], {"sizes": (2, 3), "dim": 0})
    parts = [b.one("select", [v], {"dim": 0, "index": i}) for i in range(2)]
    assert same(b.finish([second, b.one("permute", [first], {"dims": (1, 0)}), *parts]))


def test_what_is_lost_is_left_out() -> None:
    b = GraphBuilder("g")
    names = ("rounded", "half", "third", "summed")
    a, h, t, s = (b.weight(n, TensorType(DType.F32, (4,))) for n in names)
    outputs = [
        b.one("cast", [a], {"dtype": DType.BF16}),
        b.one("slice", [h], {"dim": 0, "start": 0, "end": 2}),
        b.one("mul", [t], {"scalar": 3.0}),
        b.one("add", [s], {"scalar": 1.0}),
    ]
    weights, found = told(b.finish(outputs))
    assert len(weights) == 4
    assert found == {}
