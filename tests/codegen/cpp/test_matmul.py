"""Batched products against the interpreter: weights per head, computed tensors, views of them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.cpp.kernel import Kernel
from graphopt.codegen.cpp.matmul import PRODUCT_SCRATCH, matmul_kernel, matmul_layouts
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.packing import Layout
from graphopt.region import Region, make_region

from ..region_case import random_operands
from .kernel_cases import KernelCase, check, family_cases, library_of
from .native import ISAS, compile_source

T, R = sym("T"), sym("R")
TOLERANCE = {DType.F32: 3e-6, DType.BF16: 4e-3, DType.F16: 6e-4}
Make = Callable[[GraphBuilder, DType], Value]


def tensor(b: GraphBuilder, name: str, dtype: DType, *shape: Dim) -> Value:
    return b.input(name, TensorType(dtype, shape))


def weight(b: GraphBuilder, dtype: DType, *shape: Dim) -> Value:
    return b.weight("weight", TensorType(dtype, shape))


def heads(b: GraphBuilder, dtype: DType) -> Value:
    """Queries of each head by a weight of its own, as latent attention has them."""
    x = b.one("permute", [tensor(b, "x", dtype, T, 3, 21)], {"dims": (1, 0, 2)})
    return b.one("matmul", [x, weight(b, dtype, 3, 21, 37)])


def part_of_heads(b: GraphBuilder, dtype: DType) -> Value:
    """A part of each head's numbers."""
    x = b.one("reshape", [tensor(b, "x", dtype, T, 4 * 40)], {"shape": (T, 4, 40)})
    kept, _ = b.node("split", [x], {"dim": 2, "sizes": (32, 8)})
    turned = b.one("permute", [kept], {"dims": (1, 0, 2)})
    return b.one("matmul", [turned, weight(b, dtype, 4, 32, 96)])


def shared(b: GraphBuilder, dtype: DType) -> Value:
    """One weight for a batch, and a batch of several dimensions."""
    x = tensor(b, "x", dtype, 2, 3, T, 7)
    return b.one("matmul", [x, weight(b, dtype, 3, 7, 5)])


def experts_of_all(b: GraphBuilder, dtype: DType) -> Value:
    """Rows that each expert takes, one after the other."""
    x = b.one("reshape", [tensor(b, "x", dtype, 2 * T, 40)], {"shape": (2, T, 40)})
    return b.one("matmul", [x, weight(b, dtype, 2, 40, 20)])


def of_rows(b: GraphBuilder, dtype: DType) -> Value:
    """Both computed; what is summed over has as many numbers as there are tokens."""
    return b.one("matmul", [tensor(b, "x", dtype, 3, R, T), tensor(b, "y", dtype, 3, T, 33)])


def turned(b: GraphBuilder, dtype: DType) -> Value:
    """Both turned, every second column of one, and repeated for all of the other's batch."""
    x = b.one("permute", [tensor(b, "x", dtype, T, 2, 9)], {"dims": (1, 0, 2)})
    y = b.one("permute", [tensor(b, "y", dtype, 70, 18)], {"dims": (1, 0)})
    y = b.one("slice", [y], {"dim": 0, "start": 0, "end": 18, "step": 2})
    return b.one("matmul", [x, y])


def vectors(b: GraphBuilder, dtype: DType) -> Value:
    """A row by a matrix of each of several."""
    return b.one("matmul", [tensor(b, "x", dtype, 530), tensor(b, "y", dtype, T, 530, 3)])


def vector(b: GraphBuilder, dtype: DType) -> Value:
    """A matrix by a column."""
    return b.one("matmul", [tensor(b, "x", dtype, T, 260), tensor(b, "y", dtype, 260)])


MAKES: tuple[Make, ...] = (
    heads,
    part_of_heads,
    shared,
    experts_of_all,
    of_rows,
    turned,
    vectors,
    vector,
)
DTYPES = (DType.BF16, DType.F32, DType.F16)


def region_of(make: Make, dtype: DType) -> tuple[Graph, Region]:
    b = GraphBuilder(make.__name__)
    graph = b.finish([make(b, dtype)])
    return graph, make_region(graph, range(len(graph.nodes)), family="matmul")


@cache
def case_of(make: Make, dtype: DType, packed: bool = True) -> KernelCase:
    graph, region = region_of(make, dtype)
    layouts = matmul_layouts(graph, region) if packed else {}
    kernel = matmul_kernel(graph, region, layouts)
    assert isinstance(kernel, Kernel), kernel
    return KernelCase(graph, region, kernel, layouts)


def cases() -> list[KernelCase]:
    return [case_of(make, dtype, packed) for make in MAKES for dtype in DTYPES for packed in (0, 1)]


@pytest.fixture(
    scope="module",
    params=[pytest.param(isa, marks=[pytest.mark.full] if isa != ISAS[0] else []) for isa in ISAS],
)
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return library_of((case.kernel for case in cases()), request.param)


@settings(max_examples=80, deadline=None)
@given(
    make=st.sampled_from(MAKES),
    dtype=st.sampled_from(DTYPES),
    packed=st.booleans(),
    tokens=st.one_of(st.integers(0, 9), st.integers(0, 70), st.just(270)),
    rows=st.integers(0, 60),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_kernels_agree_with_the_interpreter(
    library: ctypes.CDLL,
    make: Make,
    dtype: DType,
    packed: bool,
    tokens: int,
    rows: int,
    threads: int,
    seed: int,
) -> None:
    case, env = case_of(make, dtype, packed), {"T": tokens, "R": rows}
    given_ = random_operands(case, env, torch.Generator().manual_seed(seed))
    check(library, case, given_, env, threads, TOLERANCE[dtype])


@pytest.mark.full
@pytest.mark.parametrize("name", ["deepseek_v3", "minicpm3", "llama4_text"])
def test_real_families(name: str) -> None:
    real = family_cases(name, "matmul")
    assert real
    code = library_of((case.kernel for case in real), ISAS[0])
    for tokens in (1, 2, 19):
        env = {"T": tokens, "R": 1}
        for case in real:
            given_ = random_operands(case, env, torch.Generator().manual_seed(tokens))
            check(code, case, given_, env, 2, TOLERANCE[DType.BF16])


def test_weights_are_read_in_panels_if_they_are_packed() -> None:
    for make in (heads, part_of_heads, shared, experts_of_all):
        graph, region = region_of(make, DType.BF16)
        (layout,) = matmul_layouts(graph, region).values()
        assert layout.transposed
        assert "batched_linear" in case_of(make, DType.BF16).kernel.text
        assert "batched_product" in case_of(make, DType.BF16, packed=False).kernel.text


def test_what_is_packed_for_something_else_is_refused() -> None:
    graph, region = region_of(heads, DType.BF16)
    verdict = matmul_kernel(graph, region, {"weight": Layout.whole(21, 37, batch=3)})
    assert isinstance(verdict, Verdict)
    assert "something else" in verdict.reason
    b = GraphBuilder("left")
    graph = b.finish(
        [b.one("matmul", [weight(b, DType.F32, 2, 3), tensor(b, "x", DType.F32, 3, T)])]
    )
    region = make_region(graph, [0], family="matmul")
    assert isinstance(matmul_kernel(graph, region, {}), Kernel)
    assert isinstance(matmul_kernel(graph, region, {"weight": Layout.whole(2, 3)}), Verdict)


def test_what_strides_cannot_say_is_refused() -> None:
    b = GraphBuilder("reshaped")
    x = b.one("permute", [tensor(b, "x", DType.F32, 4, T, 6)], {"dims": (1, 0, 2)})
    flat = b.one("reshape", [x], {"shape": (4, T, 6)})
    graph = b.finish([b.one("matmul", [flat, weight(b, DType.F32, 4, 6, 2)])])
    verdict = matmul_kernel(graph, make_region(graph, range(3), family="matmul"), {})
    assert isinstance(verdict, Verdict)
    assert "strides" in verdict.reason


def test_products_of_doubles_are_refused() -> None:
    b = GraphBuilder("doubles")
    x, y = tensor(b, "x", DType.F64, T, 3), tensor(b, "y", DType.F64, 3, 2)
    graph = b.finish([b.one("matmul", [x, y])])
    assert isinstance(matmul_kernel(graph, make_region(graph, [0]), {}), Verdict)


def test_scratch_is_the_headers() -> None:
    source = (
        '#include "batched.h"\nextern "C" __attribute__((visibility("default"))) '
        "int64_t scratch() { return gopt::PRODUCT_SCRATCH; }\n"
    )
    function = compile_source(source, ISAS[0], flags=("-O0",)).scratch
    function.restype = ctypes.c_int64
    assert function() == PRODUCT_SCRATCH
