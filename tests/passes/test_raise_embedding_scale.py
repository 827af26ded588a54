"""The scale of an embedding becomes part of it, to the bit; other products do not."""

from __future__ import annotations

import pytest
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.reference import torch_dtype
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.passes.inline_scalars import InlineScalars
from graphopt.passes.raise_embedding_scale import raise_embedding_scale

from .numbers import operators, outputs, reasons, rewritten

T = sym("T")


def embedded(dtype: DType, kind: str = "number", scale: float = 8.94427190999916) -> Graph:
    b = GraphBuilder("g")
    ids = b.input("ids", TensorType(DType.I64, (T,)))
    rows = b.one("embed", [ids, b.weight("table", TensorType(dtype, (11, 7)))])
    if kind == "tensor":
        number = b.weight("scale", TensorType(dtype, ()))
        return b.finish([b.one("mul", [rows, number])])
    op = "div" if kind == "quotient" else "mul"
    if kind == "size":
        return b.finish([b.one("mul", [rows], {"scalar": T})])
    result = b.one(op, [rows], {"scalar": scale})
    if kind == "twice":
        result = b.one("mul", [result], {"scalar": 0.3})
    if kind == "read as it is":
        return b.finish([b.one("add", [result, rows])])
    return b.finish([result])


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16])
@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_bits_stay(dtype: DType, kind: str) -> None:
    graph, number = embedded(dtype, kind), 8.94427190999916
    result, _ = rewritten(graph, InlineScalars({"scale": number}), raise_embedding_scale())
    assert operators(result) == ["embed"]
    generator = torch.Generator().manual_seed(0)
    weights = {
        "table": torch.randn(11, 7, generator=generator).to(torch_dtype(dtype)),
        "scale": torch.tensor(8.94427190999916, dtype=torch.float64),
    }
    inputs = {"ids": torch.tensor([3, 0, 10, 3])}
    assert torch.equal(outputs(graph, inputs, weights)[0], outputs(result, inputs, weights)[0])


def test_a_second_scale_would_be_a_second_rounding() -> None:
    result, _ = rewritten(embedded(DType.BF16, "twice"), raise_embedding_scale())
    assert operators(result) == ["embed", "mul"]
    again, _ = rewritten(result, raise_embedding_scale())
    assert again is result


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("read as it is", "read without its scale too"),
        ("quotient", ""),
        ("size", "the scale is T"),
        ("tensor", ""),
    ],
)
def test_other_products_are_left_alone(kind: str, reason: str) -> None:
    graph = embedded(DType.F32, kind)
    result, entries = rewritten(graph, raise_embedding_scale())
    assert result is graph
    assert reason in reasons(entries)
