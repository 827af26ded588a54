"""A bias and exact factors are folded into a linear map; what would round a weight is not."""

import pytest

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.fold_linear import fold_linear

from .numbers import operators, outputs, random_values, reasons, rewritten, worst

T = sym("T")


def biased(shape: tuple[int, ...] = (6,), *, twice: bool = False, fixed: bool = True) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 8)))
    w = b.weight("w", TensorType(DType.F32, (6, 8)))
    kind = TensorType(DType.F32, shape)
    bias = b.weight("b", kind) if fixed else b.input("b", kind)
    y = b.one("linear", [x, w])
    total = b.one("add", [bias, y])
    return b.finish([total, y] if twice else [total])


def scaled(scale: float, dtype: DType = DType.BF16) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, (T, 8)))
    w = b.weight("w", TensorType(dtype, (6, 8)))
    return b.finish([b.one("mul", [b.one("linear", [x, w])], {"scalar": scale})])


def test_a_vector_becomes_the_bias() -> None:
    before = biased()
    after, _ = rewritten(before, fold_linear())
    assert operators(after) == ["linear"]
    assert len(after.nodes[0].inputs) == 3
    assert worst(before, after) < 1e-6


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (biased(twice=True), "without the bias is used too"),
        (biased(fixed=False), "computed in the step"),
        (biased((1,)), "not one number for each feature"),
    ],
)
def test_what_is_no_bias_is_refused(before: Graph, reason: str) -> None:
    after, entries = rewritten(before, fold_linear())
    assert after is before
    assert reason in reasons(entries)


def test_a_residual_is_not_even_mentioned() -> None:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 8)))
    w = b.weight("w", TensorType(DType.F32, (8, 8)))
    after, entries = rewritten(
        b.finish([b.one("add", [b.one("linear", [x, w]), x])]), fold_linear()
    )
    assert operators(after) == ["linear", "add"]
    assert entries == ()


@pytest.mark.parametrize("scale", [0.125, 4.0])
def test_a_power_of_two_moves_into_the_weight_to_the_bit(scale: float) -> None:
    before = scaled(scale)
    after, _ = rewritten(before, fold_linear())
    assert operators(after) == ["mul", "linear"]
    assert after.nodes[0].inputs[0].is_weight
    inputs, weights = random_values(before, 5, 0)
    old, new = (outputs(graph, inputs, weights)[0] for graph in (before, after))
    assert old.equal(new)


@pytest.mark.parametrize("scale", [0.1, 3.0, -0.5, 0.0, 2.0**40])
def test_any_other_factor_would_round_the_weight(scale: float) -> None:
    after, entries = rewritten(scaled(scale), fold_linear())
    assert operators(after) == ["linear", "mul"]
    assert "would be rounded" in reasons(entries)


def test_a_type_with_few_exponents_is_refused() -> None:
    _, entries = rewritten(scaled(0.125, DType.F16), fold_linear())
    assert "leave the type's range" in reasons(entries)


def test_a_large_weight_is_not_multiplied_in_every_step() -> None:
    """It stays as it is stored, narrower than it is read."""
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 1024)))
    w = b.one("cast", [b.weight("w", TensorType(DType.BF16, (1024, 1024)))], {"dtype": DType.F32})
    before = b.finish([b.one("mul", [b.one("linear", [x, w])], {"scalar": 0.5})])
    after, entries = rewritten(before, fold_linear())
    assert after is before
    assert "multiplied in every step: it takes more memory" in reasons(entries)
