"""What packed weights were made from is told so that it makes the same, or left out."""

import pytest
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


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F32])
def test_what_a_number_was_added_to_gives_the_same_sum(dtype: DType) -> None:
    b = GraphBuilder("g")
    w = b.weight("norm", TensorType(DType.BF16, (64,)))
    wide = b.one("cast", [w], {"dtype": dtype}) if dtype is not DType.BF16 else w
    graph = b.finish([b.one("add", [wide], {"scalar": 1.0, "reverse": False})])
    weights, found = told(graph)
    assert found["norm"].dtype == torch.bfloat16
    assert Interpreter(graph, found).run({})[0].equal(Interpreter(graph, weights).run({})[0])


def test_what_a_number_was_added_to_is_left_out_if_no_weight_gives_the_sum() -> None:
    b = GraphBuilder("g")
    w = b.weight("norm", TensorType(DType.BF16, (2,)))
    wide = b.one("cast", [w], {"dtype": DType.F32})
    graph = b.finish([b.one("add", [wide], {"scalar": 1.0, "reverse": False})])
    assert recover(graph, {graph.outputs[0]: torch.tensor([1.0, 1.1])}) == {}


def test_what_is_lost_is_left_out() -> None:
    b = GraphBuilder("g")
    names = ("rounded", "half", "third", "summed")
    a, h, t, s = (b.weight(n, TensorType(DType.F32, (4,))) for n in names)
    outputs = [
        b.one("cast", [a], {"dtype": DType.BF16}),
        b.one("slice", [h], {"dim": 0, "start": 0, "end": 2}),
        b.one("mul", [t], {"scalar": 3.0}),
        b.one("exp", [s]),
    ]
    weights, found = told(b.finish(outputs))
    assert len(weights) == 4
    assert found == {}


@pytest.mark.parametrize(
    ("dtype", "factor", "weight", "told_exactly"),
    [
        (DType.F32, 0.5, [1.0, 0.0, -3.0], True),
        (DType.BF16, 2.0**16, [1.0, 0.0, 1e-40], True),
        (DType.F32, 0.5, [2.0**-149 * 3], False),  # a digit is lost below the normal numbers
        (DType.BF16, 2.0**10, [3e38], False),  # too large: infinite
        (DType.BF16, 2.0**-100, [1e-20], False),  # so small that it became zero
        (DType.F16, 0.125, [2.0**-24], False),  # the same, and float16 has such numbers
        (DType.I8, 2, [64], False),  # too large: starts again at the other end
        (DType.F32, 3.0, [1.0], False),
    ],
)
def test_a_factor_is_divided_out_where_no_digit_was_lost(
    dtype: DType, factor: float, weight: list[float], told_exactly: bool
) -> None:
    b = GraphBuilder("g")
    value = b.weight("w", TensorType(dtype, (len(weight),)))
    graph = b.finish([b.one("mul", [value], {"scalar": factor})])
    tensor = torch.tensor(weight).to(torch_dtype(dtype))
    outputs = Interpreter(graph, {"w": tensor}).run({})
    found = recover(graph, dict(zip(graph.outputs, outputs, strict=True)))
    assert ("w" in found) is told_exactly
    assert not found or found["w"].equal(tensor)


@pytest.mark.parametrize("exact_first", [True, False])
def test_a_weight_that_was_added_to_is_told_by_what_kept_its_digits(exact_first: bool) -> None:
    b = GraphBuilder("g")
    w = b.weight("w", TensorType(DType.BF16, (3, 5)))
    moved = [
        b.one("permute", [w], {"dims": (1, 0)}),
        b.one("add", [b.one("reshape", [w], {"shape": (15,)})], {"scalar": 1.0}),
    ]
    assert same(b.finish(moved if exact_first else moved[::-1]))


def test_a_weight_that_two_numbers_were_added_to_is_not_told() -> None:
    """One that gives the first sum need not give the second."""
    b = GraphBuilder("g")
    w = b.weight("w", TensorType(DType.BF16, (64,)))
    sums = [b.one("add", [w], {"scalar": scalar}) for scalar in (1.0, 2.5)]
    assert told(b.finish(sums))[1] == {}


def test_truth_values_are_not_told_from_sums() -> None:
    b = GraphBuilder("g")
    w = b.weight("w", TensorType(DType.BOOL, (4,)))
    assert told(b.finish([b.one("add", [w], {"scalar": True})]))[1] == {}
