"""Weights in fp8, and rows of 8 bits where a GPU would keep them."""

from __future__ import annotations

import pytest
import torch

from graphopt.errors import UsageError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Ledger
from graphopt.passes.hoist import hoist
from graphopt.passes.quantize import Quantize
from graphopt.passes.quantize_schemes import Fp8, Integers, scheme_of

from .numbers import operators, random_values, reasons, rewritten


def mapped(rows: int = 200, columns: int = 300, *, is_tied: bool = False) -> Graph:
    b = GraphBuilder("g")
    x = b.input("x", TensorType(DType.F32, (sym("T"), columns)))
    w = b.weight("w", TensorType(DType.F32, (rows, columns)))
    bias = b.weight("b", TensorType(DType.F32, (rows,)))
    results = [b.one("linear", [x, w, bias])]
    if is_tied:
        ids = b.input("ids", TensorType(DType.I64, (sym("T"),)))
        results.append(b.one("embed", [ids, w]))
    return b.finish(results)


@pytest.mark.parametrize(("kind", "scales"), [("fp8", (2, 3)), ("fp8-tensor", ())])
def test_a_weight_in_fp8_is_made_once(kind: str, scales: tuple[int, ...]) -> None:
    graph = mapped()
    after, entries = rewritten(graph, Quantize(kind, weight_only=True))
    assert operators(after) == ["fp8_weight", "fp8_linear"]
    assert entries[0].reason.startswith("fp8 ")
    # A byte for each number where there were four, and the scales.
    assert entries[0].saves_bytes == 200 * 300 * 3 - 4 * max(1, torch.Size(scales).numel())
    split = hoist(after, Ledger())
    types = {value.name: value.type for value in split.graph.weights}
    assert types["w.numbers"] == TensorType(DType.F8E4M3, (200, 300))
    assert types["w.scales"] == TensorType(DType.F32, scales)
    inputs, weights = random_values(graph, 13, 0)
    (wanted,), (found,) = (Interpreter(g, weights).run(inputs) for g in (graph, after))
    assert 0 < (found - wanted).norm() <= 0.05 * wanted.norm()


def test_a_weight_that_is_looked_up_too_is_not_made_fp8() -> None:
    after, entries = rewritten(mapped(is_tied=True), Quantize("fp8"))
    assert operators(after) == ["linear", "embed"]
    assert "kept twice" in reasons(entries)


def test_rows_of_8_bits_for_a_gpu() -> None:
    after, _ = rewritten(mapped(), Quantize("w8a8", weight_only=True))
    assert operators(after) == ["quantize_weight", "quantized_linear"]
    assert after.nodes[-1].attrs["weight_only"] is False


@pytest.mark.parametrize("kind", ["fp8", "w8a8", "int8"])
def test_experts_of_a_gpu_are_kept(kind: str) -> None:
    assert not scheme_of(kind, weight_only=True).experts


def test_names() -> None:
    assert scheme_of("int4", weight_only=False) == Integers(4, weight_only=False, experts=True)
    assert scheme_of("fp8", weight_only=True) == Fp8(128)
    with pytest.raises(UsageError, match="no such quantization"):
        scheme_of("fp4", weight_only=True)
