"""What a region needs at least of a GPU."""

from __future__ import annotations

import pytest

from graphopt.codegen.triton.roofline import GPUS, gpu_of_arch, gpu_of_name, key_of_name, work_of
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.region import make_region
from graphopt.target import GPU_ARCHS

T = sym("T")
H200 = GPUS[0]


def test_a_product_waits_for_memory_with_few_rows_and_for_arithmetic_with_many() -> None:
    b = GraphBuilder("linear")
    x = b.input("x", TensorType(DType.BF16, (T, 4096)))
    y = b.one("linear", [x, b.weight("w", TensorType(DType.BF16, (14336, 4096)))])
    graph = b.finish([y])
    work = work_of(graph, make_region(graph, [0], family="linear", name="linear"))
    one, many = {"T": 1}, {"T": 8192}
    nbytes = 2 * (4096 * 14336 + 4096 + 14336)
    assert work.seconds(H200, one) == pytest.approx(nbytes / 4.8e12)
    assert work.bound(H200, one) == "memory"
    assert work.seconds(H200, many) == pytest.approx(2 * 8192 * 4096 * 14336 / 989e12)
    assert work.bound(H200, many) == "arithmetic"


def test_what_stays_inside_costs_nothing() -> None:
    b = GraphBuilder("units")
    x = b.input("x", TensorType(DType.F32, (T, 1024)))
    graph = b.finish([b.one("gelu", [b.one("silu", [x])])])
    work = work_of(graph, make_region(graph, [0, 1], family="pointwise", name="units"))
    assert work.seconds(H200, {"T": 100}) == pytest.approx(2 * 4 * 100 * 1024 / 4.8e12)


def test_gpus_are_found_by_name_and_architecture() -> None:
    assert gpu_of_arch(90) is H200
    assert gpu_of_arch(75) is None
    assert gpu_of_name("NVIDIA H200") is H200
    found = gpu_of_name("NVIDIA H100 PCIe")
    assert found is not None
    assert found.multiprocessors == 114
    assert gpu_of_name("NVIDIA T4") is None
    assert key_of_name("NVIDIA A100-SXM4-80GB") == "nvidia_a100_sxm4_80gb"
    assert len({one.key for one in GPUS}) == len(GPUS)
    assert {f"sm_{one.arch}" for one in GPUS} <= set(GPU_ARCHS)
