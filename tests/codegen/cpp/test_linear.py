"""Linear maps with what is fused around them against the interpreter."""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import product

import pytest
import torch

from graphopt.codegen.cpp.kernel import Kernel
from graphopt.codegen.cpp.layouts import layouts_of
from graphopt.codegen.cpp.linear import linear_kernel
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.region import make_region

from ..region_case import random_operands
from .kernel_cases import KernelCase, check, library_of
from .linear_cases import AFTER, BEFORE, WHOLE_ROWS, After, Before, linear_case
from .native import ISAS

T = sym("T")
TOLERANCE = {DType.F32: 1e-5, DType.BF16: 8e-3, DType.F16: 1e-3}
# Where x is rounded to 8 bits, a number on the edge may go the other way.
QUANTIZED = 2e-2
KINDS = ((DType.F32, 0), (DType.BF16, 0), (DType.BF16, 8), (DType.F32, 4))
COMBINATIONS = tuple(product(BEFORE, AFTER))
STEPS = ((1, 2), (5, 3), (17, 2), (40, 3))  # tokens, and threads


@cache
def case_of(before: Before, after: After, dtype: DType, bits: int = 0) -> KernelCase:
    graph, region = linear_case(before, after, dtype, bits)
    layouts = layouts_of(graph, [region])
    kernel = linear_kernel(graph, region, layouts)
    assert isinstance(kernel, Kernel), (before, after, kernel)
    return KernelCase(graph, region, kernel, layouts)


def chosen(few: bool) -> list[tuple[Before, After, DType, int]]:
    """All combinations of some kind, or each side and each kind at least once."""
    every = [(b, a, *kind) for (b, a), kind in product(COMBINATIONS, KINDS)]
    if not few:
        return every
    diagonal = [
        (BEFORE[n % len(BEFORE)], after, *KINDS[n % len(KINDS)]) for n, after in enumerate(AFTER)
    ]
    return [*diagonal, *((b, AFTER[6], *KINDS[1]) for b in BEFORE)]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return library_of((case_of(*one).kernel for one in chosen(few=True)), ISAS[0], ("-O0",))


def agrees(code: ctypes.CDLL, one: tuple[Before, After, DType, int], seed: int) -> None:
    case, (_, _, dtype, bits) = case_of(*one), one
    for tokens, threads in STEPS:
        env = {"T": tokens, "R": max(1, tokens - 3)}
        generator = torch.Generator().manual_seed(seed + tokens)
        given = random_operands(case, env, generator)
        if "rows" in given:
            given["rows"] = torch.randperm(tokens, generator=generator)[: env["R"]]
        check(code, case, given, env, threads, QUANTIZED if bits else TOLERANCE[dtype])


@pytest.mark.parametrize(
    "one",
    chosen(few=True),
    ids=lambda one: f"{one[0].__name__}-{one[1].__name__}-{one[2]}-{one[3]}",
)
def test_kernels_agree_with_the_interpreter(
    library: ctypes.CDLL, one: tuple[Before, After, DType, int]
) -> None:
    agrees(library, one, seed=0)


@pytest.mark.full
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("dtype", "bits"), [*KINDS, (DType.F16, 0)])
def test_every_combination(isa: str, dtype: DType, bits: int) -> None:
    every = [(before, after, dtype, bits) for before, after in COMBINATIONS]
    code = library_of((case_of(*one).kernel for one in every), isa, ("-O0",))
    for seed, one in enumerate(every):
        agrees(code, one, seed)


@pytest.mark.parametrize("after", AFTER)
def test_only_what_needs_whole_rows_waits_for_them(after: After) -> None:
    kernel = case_of(BEFORE[0], after, DType.BF16).kernel
    assert ("whole rows" in kernel.text) == (after in WHOLE_ROWS)


def test_the_kernel_tells_what_it_computes() -> None:
    kernel = case_of(BEFORE[1], AFTER[6], DType.BF16).kernel
    assert kernel.name.startswith("linear_")
    assert "linear1: bf16[T, 44] = linear(" in kernel.text
    assert "const bf16* const mlp_weight = (const bf16*)a[" in kernel.text
    assert kernel.headers[0] == "gemm.h"
    assert case_of(BEFORE[1], AFTER[6], DType.BF16, 8).kernel.headers[0] == "gemm_quant.h"


def test_equal_layers_share_a_kernel() -> None:
    names = set()
    for layer in (0, 7):
        b = GraphBuilder("layer")
        x = b.input("x", TensorType(DType.F32, (T, 8)))
        weight = b.weight(f"layers.{layer}.up.weight", TensorType(DType.F32, (4, 8)))
        graph = b.finish([b.one("linear", [x, weight])])
        region = make_region(graph, [0], family="linear", name="linear", scope=f"layers.{layer}")
        kernel = linear_kernel(graph, region, layouts_of(graph, [region]))
        assert isinstance(kernel, Kernel)
        names.add(kernel.name)
    assert len(names) == 1


def test_a_weight_that_is_not_packed_is_refused() -> None:
    graph, region = linear_case(BEFORE[0], AFTER[0], DType.F32)
    verdict = linear_kernel(graph, region, {})
    assert isinstance(verdict, Verdict)
    assert "not packed" in verdict.reason


def test_a_computed_weight_is_refused() -> None:
    b = GraphBuilder("computed")
    x, w = (b.input(name, TensorType(DType.F32, (size, 8))) for name, size in (("x", T), ("w", 4)))
    graph = b.finish([b.one("linear", [x, w])])
    region = make_region(graph, [0], family="linear")
    assert layouts_of(graph, [region]) == {}
    assert isinstance(linear_kernel(graph, region, {}), Verdict)


def test_doubles_are_refused() -> None:
    b = GraphBuilder("doubles")
    x = b.input("x", TensorType(DType.F64, (T, 8)))
    graph = b.finish([b.one("linear", [x, b.weight("w", TensorType(DType.F64, (4, 8)))])])
    region = make_region(graph, [0], family="linear")
    assert isinstance(linear_kernel(graph, region, layouts_of(graph, [region])), Verdict)


def test_one_row_for_all_is_refused() -> None:
    """A product without rows of tokens: there is nothing that threads could share."""
    b = GraphBuilder("constant")
    x = b.input("x", TensorType(DType.F32, (3, 8)))
    graph = b.finish([b.one("linear", [x, b.weight("w", TensorType(DType.F32, (4, 8)))])])
    region = make_region(graph, [0], family="linear")
    verdict = linear_kernel(graph, region, layouts_of(graph, [region]))
    assert isinstance(verdict, Verdict)
    assert "no rows" in verdict.reason
