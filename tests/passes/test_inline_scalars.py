"""Known numbers become attributes, and not a bit of any result changes."""

from __future__ import annotations

import math

import pytest
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.inline_scalars import INLINED, InlineScalars
from graphopt.passes.manager import PassContext

from .numbers import operators, outputs, random_values, rewritten

T = sym("T")
NUMBERS = (8.94427190999916, 1 / 3, -1e-3, 3.0e38, 65504.0, 0.0, 1.0000001)


def scaled(op: str, dtype: DType, *, swapped: bool = False, stored: DType | None = None) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(dtype, (T, 31)))
    number = b.weight("scale", TensorType(stored or dtype, ()))
    if stored is not None:
        number = b.one("cast", [number], {"dtype": dtype})
    return b.finish([b.one(op, [number, x] if swapped else [x, number])])


@pytest.mark.parametrize("op", sorted(INLINED))
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16, DType.F64])
def test_bits_stay(op: str, dtype: DType) -> None:
    for number in NUMBERS:
        for swapped in (False, True):
            graph = scaled(op, dtype, swapped=swapped)
            result, _ = rewritten(graph, InlineScalars({"scale": number}))
            assert operators(result) == [op]
            assert not result.weights
            inputs, _ = random_values(graph, 13, 0)
            (wanted,) = outputs(graph, inputs, {"scale": torch.tensor(number, dtype=torch.float64)})
            (found,) = outputs(result, inputs, {})
            assert torch.equal(found.nan_to_num(), wanted.nan_to_num()), number


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16, DType.F32])
def test_numbers_are_rounded_as_pytorch_rounds(dtype: DType) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(200, generator=generator, dtype=torch.float64) * 100
    for number in [*numbers.tolist(), *NUMBERS, math.inf, -math.inf, 1 + 2**-8, 1 + 3 * 2**-8]:
        result, _ = rewritten(scaled("add", dtype), InlineScalars({"scale": number}))
        expected = torch.tensor(number, dtype=torch.float64).to(torch_dtype(dtype)).item()
        assert result.nodes[0].attrs["scalar"] == expected


def test_a_cast_of_a_known_number_is_known() -> None:
    graph = scaled("mul", DType.BF16, stored=DType.I64)
    result, _ = rewritten(graph, InlineScalars({"scale": 257}))
    assert operators(result) == ["mul"]
    assert result.nodes[0].attrs == {"scalar": 256.0, "reverse": False}
    twice = scaled("mul", DType.F32, stored=DType.BF16)
    result, _ = rewritten(twice, InlineScalars({"scale": 1 / 3}))
    assert result.nodes[0].attrs["scalar"] == torch.tensor(1 / 3).bfloat16().item()


def test_what_is_not_known_or_has_dimensions_stays() -> None:
    graph = scaled("mul", DType.F32)
    assert rewritten(graph, InlineScalars({}))[0] is graph
    assert rewritten(graph, InlineScalars({"another": 2.0}))[0] is graph
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (T, 31)))
    row = b.finish([b.one("mul", [x, b.weight("scale", TensorType(DType.F32, (1,)))])])
    assert rewritten(row, InlineScalars({"scale": 2.0}))[0] is row


def test_powers_are_left_to_the_exponents_tensor() -> None:
    graph = scaled("pow", DType.F32)
    assert rewritten(graph, InlineScalars({"scale": 2.0}))[0] is graph


def test_fuel_stops_it() -> None:
    graph = scaled("mul", DType.F32)
    assert not InlineScalars({"scale": 2.0})(graph, PassContext(fuel=0)).modified
