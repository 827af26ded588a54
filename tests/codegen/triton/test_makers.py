"""Who makes which kernel: every family has a maker, products have theirs by their operator."""

from __future__ import annotations

from dataclasses import replace

import pytest

import graphopt.codegen.triton.makers as module
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.makers import ANCHORS, MAKERS, is_told_packings, kernel_of
from graphopt.ir.dtype import DType
from graphopt.ledger import Verdict
from graphopt.region import FAMILIES
from tests.codegen.cpp.linear_cases import AFTER, BEFORE, linear_case

from .quant_runs import quantized


def test_every_family_has_a_maker() -> None:
    assert MAKERS.keys() >= set(FAMILIES)


def test_products_are_made_by_their_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = linear_case(BEFORE[0], AFTER[0], DType.BF16)
    packed = quantized(BEFORE[0], AFTER[0], DType.BF16, 4, weight_only=True)
    for graph, region in (plain, packed):
        assert isinstance(kernel_of(graph, region, arch=90, block_size=16), TritonKernel)
    asked: list[int] = []
    other = {name: lambda *_, arch: asked.append(arch) for name in ANCHORS}
    monkeypatch.setattr(module, "ANCHORS", other)
    kernel_of(*packed, arch=80, block_size=16)
    kernel_of(*plain, arch=90, block_size=16)
    assert asked == [80]


def test_a_family_without_a_template_says_so() -> None:
    graph, region = linear_case(BEFORE[0], AFTER[0], DType.BF16)
    found = kernel_of(graph, replace(region, family="other"), arch=90, block_size=16)
    assert isinstance(found, Verdict)
    assert found.reason.startswith("no template yet computes linear")


def test_rows_are_read_however_they_lie() -> None:
    _, region = linear_case(BEFORE[0], AFTER[0], DType.BF16)
    assert not is_told_packings(region)
    assert is_told_packings(replace(region, family="gather"))
