"""Row kernels in the interpreter: every graph of the row programs' tests, and real families.

Every variant of every kernel is run, with one row, a few and many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import pytest

from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.rows import rows_kernel
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ir.widen import widen
from graphopt.ledger import Verdict
from graphopt.region import make_region
from tests.passes.models import lowered

from ..rows import index_graphs, layers_graphs, pointwise_graphs, reduce_graphs, shape_graphs
from ..rows.cases import chain, operation, whole
from .row_cases import TileCase, check, check_all, make_case

T, S = sym("T"), sym("S")
F32, BF16 = DType.F32, DType.BF16
GRAPHS: dict[str, Callable[[], Sequence[Graph]]] = {
    "norms": layers_graphs.norms,
    "ropes": layers_graphs.ropes,
    "routers": layers_graphs.routers,
    "writes": layers_graphs.writes,
    "reductions": reduce_graphs.reductions,
    "lines": reduce_graphs.lines,
    "floats": pointwise_graphs.floats,
    "integers": pointwise_graphs.integers_and_bools,
    "casts": pointwise_graphs.casts_and_mixtures,
    "creation": pointwise_graphs.creation,
    "views": shape_graphs.views,
    "split": lambda: [shape_graphs.split()],
    "assembled": shape_graphs.assembled,
    "several results": shape_graphs.several_results,
    "reads": index_graphs.reads,
    "quantized": lambda: [index_graphs.quantized(8, 64, 32), index_graphs.quantized(4, 70, 32)],
}


@pytest.mark.interpreted
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    check_all(GRAPHS[name]())


# ---- Real families ------------------------------------------------------------------------------

ROW_FAMILIES = ("pointwise", "row", "gather", "heads", "view")
EVERY = (
    "bloom cohere deepseek_v3 falcon gemma2 gemma3_text glm4 gpt2 gpt_neox gpt_oss gptj granite "
    "llama mistral mixtral olmo2 opt phi3 qwen2 qwen3 qwen3_moe smollm3 stablelm starcoder2"
)
FAST = ("qwen3", "deepseek_v3", "gptj")


@cache
def _cases(name: str, dtype: DType) -> tuple[TileCase, ...]:
    found = lowered(name)
    graph = found.graph if dtype is BF16 else widen(found.graph)
    cases: dict[str, TileCase] = {}
    for region in found.regions:
        if region.family in ROW_FAMILIES:
            case = make_case(
                graph, make_region(graph, region.nodes, family=region.family, name=region.name)
            )
            assert isinstance(case, TileCase), (case, region)
            cases.setdefault(case.kernel.name, case)
    return tuple(cases.values())


@pytest.mark.interpreted
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.full) for n in EVERY.split()]
)
def test_families(name: str, dtype: DType) -> None:
    """Every row region of a real model has a kernel, and its results are right."""
    for case in _cases(name, dtype):
        for tokens in (1, 3, 17):
            check(case, tokens=tokens, seed=tokens)


# ---- Text and refusals --------------------------------------------------------------------------


def _kernel(graph: Graph) -> TritonKernel:
    found = rows_kernel(graph, whole(graph))
    assert isinstance(found, TritonKernel), found
    return found


def test_arguments_are_pointers_then_sizes_then_constants() -> None:
    graph = chain(
        [TensorType(BF16, (T, 64)), TensorType(BF16, (64,))],
        lambda b, x: [b.one("rms_norm", x, {"eps": 1e-6})],
    )
    kernel = _kernel(graph)
    assert kernel.pointers == (BF16, BF16, BF16)
    assert kernel.sizes == ("T",)
    head = kernel.text.split("):")[-2].split("(")[-1]
    names = [line.strip(" ,") for line in head.strip().splitlines()]
    assert names == ["x0", "w1_weight", "rms_norm1", "T", "ROWS: tl.constexpr"]
    assert not kernel.variants[-1].below


def test_halves_of_a_head_are_loaded_once() -> None:
    """A norm of each head adds up the halves that rotary positions turn."""
    heads, table = TensorType(BF16, (T, 4, 128)), TensorType(BF16, (T, 64))

    def make(b, x):  # type: ignore[no-untyped-def]
        return [b.one("rope", [b.one("rms_norm", [x[0]], {"eps": 1e-6}), *x[1:]])]

    text = _kernel(chain([heads, table, table], make)).text
    assert text.count("tl.load(x0 +") == 2
    assert "tl.sum(square(x0_tile) + square(x0_tile1), 2, keep_dims=True)" in text


def test_equal_layers_have_one_kernel() -> None:
    found = lowered("llama")
    regions = [one for one in found.regions if one.family == "heads"]
    kernels = [rows_kernel(found.graph, region) for region in regions]
    assert len(regions) > 1
    names = {kernel.name for kernel in kernels if isinstance(kernel, TritonKernel)}
    assert len(names) == 1


@pytest.mark.parametrize("name", EVERY.split())
def test_every_row_region_of_a_family_has_a_kernel(name: str) -> None:
    found = lowered(name)
    for region in found.regions:
        if region.family in ROW_FAMILIES:
            assert isinstance(rows_kernel(found.graph, region), TritonKernel), region


def test_refusals() -> None:
    x = TensorType(BF16, (T, 64))
    for graph, reason in (
        (operation("exp", [TensorType(DType.F64, (T, 4))]), "f64"),
        (operation("add", [TensorType(F32, (T, S))], scalar=1.0), "rows could be"),
        (operation("tril", [TensorType(F32, (T, T))]), "rows are not one dimension"),
        (operation("exp", [TensorType(F32, (T + 1, 4))]), "whole number of rows"),
        (operation("scatter", [x, TensorType(DType.I64, (T, 3)), x], dim=1), "scatter"),
        (operation("sum", [x], dims=(0,)), "rows are reduced"),
    ):
        found = rows_kernel(graph, whole(graph))
        assert isinstance(found, Verdict), graph.nodes
        assert reason in found.reason
        assert found.culprits
