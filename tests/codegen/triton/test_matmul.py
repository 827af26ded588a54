"""Batched products against the IR's interpreter: weights per head, computed tensors, views."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.matmul import matmul_kernel
from graphopt.codegen.triton.resources import SHARED_BYTES, resources_of
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.region import Region, make_region

from ..region_case import random_operands
from .region_run import RegionCase, check, check_family

T, R = sym("T"), sym("R")
TOLERANCE = {DType.F32: 1e-5, DType.BF16: 4e-3, DType.F16: 6e-4}
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


def rows_of_all(b: GraphBuilder, dtype: DType) -> Value:
    """A whole number of rows for each token."""
    x = b.one("reshape", [tensor(b, "x", dtype, 2, T, 3, 40)], {"shape": (2, 3 * T, 40)})
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
    return b.one("matmul", [tensor(b, "x", dtype, 130), tensor(b, "y", dtype, T, 130, 3)])


def vector(b: GraphBuilder, dtype: DType) -> Value:
    """A matrix by a column."""
    return b.one("matmul", [tensor(b, "x", dtype, T, 60), tensor(b, "y", dtype, 60)])


def symbolic_columns(b: GraphBuilder, dtype: DType) -> Value:
    """As many columns as tokens."""
    return b.one("matmul", [tensor(b, "x", dtype, 2, 5, 24), tensor(b, "y", dtype, 2, 24, T)])


MAKES: tuple[Make, ...] = (
    heads,
    part_of_heads,
    shared,
    rows_of_all,
    of_rows,
    turned,
    vectors,
    vector,
    symbolic_columns,
)
DTYPES = (DType.BF16, DType.F32, DType.F16)


def region_of(make: Make, dtype: DType) -> tuple[Graph, Region]:
    b = GraphBuilder(make.__name__)
    graph = b.finish([make(b, dtype)])
    return graph, make_region(graph, range(len(graph.nodes)), family="matmul")


@cache
def case_of(make: Make, dtype: DType) -> RegionCase:
    graph, region = region_of(make, dtype)
    kernel = matmul_kernel(graph, region)
    assert isinstance(kernel, TritonKernel), kernel
    return RegionCase(graph, region, kernel)


@pytest.mark.interpreted
@settings(max_examples=50, deadline=None)
@given(
    make=st.sampled_from(MAKES),
    dtype=st.sampled_from(DTYPES),
    tokens=st.one_of(st.integers(1, 9), st.integers(1, 70)),
    rows=st.integers(1, 40),
    place=st.integers(0, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_kernels_agree_with_the_interpreter(
    make: Make, dtype: DType, tokens: int, rows: int, place: int, seed: int
) -> None:
    case, env = case_of(make, dtype), {"T": tokens, "R": rows}
    given_ = random_operands(case, env, torch.Generator().manual_seed(seed))
    variant = case.kernel.variants[min(place, len(case.kernel.variants) - 1)]
    check(case, variant, given_, env, TOLERANCE[dtype])


@pytest.mark.interpreted
@pytest.mark.full
@pytest.mark.parametrize("name", ["deepseek_v3", "minicpm3", "llama4_text"])
def test_real_families(name: str) -> None:
    check_family(name, "matmul", matmul_kernel, 1e-2)


def test_steps_run_the_variant_for_their_rows() -> None:
    few, some, many = case_of(part_of_heads, DType.BF16).kernel.variants
    assert (few.below, some.below, many.below) == ({"T": 16}, {"T": 512}, {})
    assert few.programs({"T": 9}) == (4 * 2, 1, 1)
    assert many.programs({"T": 1000}) == (4 * 8, 1, 1)
    assert len(case_of(rows_of_all, DType.BF16).kernel.variants) == 1


def queries(b: GraphBuilder, dtype: DType) -> Value:
    """What deepseek-v3 does to queries: 128 heads of 128 numbers, besides 64, to latent ones."""
    x = b.one("reshape", [tensor(b, "x", dtype, T, 128 * 192)], {"shape": (T, 128, 192)})
    kept, _ = b.node("split", [x], {"dim": 2, "sizes": (128, 64)})
    turned = b.one("permute", [kept], {"dims": (1, 0, 2)})
    return b.one("matmul", [turned, weight(b, dtype, 128, 128, 512)])


def values(b: GraphBuilder, dtype: DType) -> Value:
    """What deepseek-v3 does to latent results: 512 numbers to 128 of each head."""
    x = b.one("permute", [tensor(b, "x", dtype, T, 128, 512)], {"dims": (1, 0, 2)})
    return b.one("matmul", [x, weight(b, dtype, 128, 512, 128)])


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("make", [queries, values])
def test_nothing_spills_and_products_run_on_tensor_cores(make: Make, arch: int) -> None:
    kernel = case_of(make, DType.BF16).kernel
    for variant in kernel.variants:
        found = resources_of(compile_variant(kernel, variant, arch))
        assert found.problems() == []
        assert found.shared_bytes <= SHARED_BYTES[89]
        assert found.has_tensor_cores
        assert found.has_wgmma == (arch == 90 and variant.constants["ROWS"] >= 64)
        assert found.wide_loads
        assert not found.narrow_loads


def test_what_strides_cannot_say_is_refused() -> None:
    b = GraphBuilder("reshaped")
    x = b.one("permute", [tensor(b, "x", DType.F32, 4, T, 6)], {"dims": (1, 0, 2)})
    flat = b.one("reshape", [x], {"shape": (4, T, 6)})
    graph = b.finish([b.one("matmul", [flat, weight(b, DType.F32, 4, 6, 8)])])
    verdict = matmul_kernel(graph, make_region(graph, range(3), family="matmul"))
    assert isinstance(verdict, Verdict)
    assert "strides" in verdict.reason


def test_types_that_are_not_multiplied_are_refused() -> None:
    graph, region = region_of(heads, DType.F64)
    verdict = matmul_kernel(graph, region)
    assert isinstance(verdict, Verdict)
    assert "f64" in verdict.reason
