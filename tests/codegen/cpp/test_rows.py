"""The row regions of real families, kernel by kernel, against the interpreter."""

from __future__ import annotations

from functools import cache

import pytest

from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.widen import widen
from graphopt.region import Region, make_region
from tests.passes.models import lowered

from .native import ISAS
from .row_cases import RowCase, check, make_case

ROW_FAMILIES = ("pointwise", "row", "gather", "heads", "view")
EVERY = (
    "bloom cohere deepseek_v3 falcon gemma2 gemma3_text glm4 gpt2 gpt_neox gpt_oss gptj granite "
    "llama mistral mixtral olmo2 opt phi3 qwen2 qwen3 qwen3_moe smollm3 stablelm starcoder2"
)
FAST = ("llama", "qwen3", "deepseek_v3", "gptj")


@cache
def _cases(name: str, dtype: DType) -> tuple[RowCase, ...]:
    found = lowered(name, "cpu")
    cases: dict[str, RowCase] = {}
    for region in found.regions:
        if region.family not in ROW_FAMILIES:
            continue
        graph, own = (found.graph, region) if dtype is DType.BF16 else _widened(found.graph, region)
        case = make_case(graph, own)
        assert isinstance(case, RowCase), case
        cases.setdefault(case.kernel.name, case)
    return tuple(cases.values())


@cache
def _wide(graph: Graph) -> Graph:
    return widen(graph)


def _widened(graph: Graph, region: Region) -> tuple[Graph, Region]:
    wide = _wide(graph)
    return wide, make_region(
        wide, region.nodes, family=region.family, name=region.name, scope=region.scope
    )


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16], ids=str)
@pytest.mark.parametrize("name", FAST)
def test_best_isa(name: str, dtype: DType) -> None:
    for tokens, threads in ((1, 1), (2, 3), (3, 2), (17, 2)):
        check(_cases(name, dtype), ISAS[0], tokens=tokens, threads=threads, seed=tokens)


@pytest.mark.full
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16], ids=str)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", EVERY.split())
def test_every_family(name: str, isa: str, dtype: DType) -> None:
    for tokens, threads in ((1, 1), (2, 3), (17, 2)):
        check(_cases(name, dtype), isa, tokens=tokens, threads=threads, seed=tokens)
