"""Layers of experts against the IR's interpreter: every form and activation, any routing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.triton.backend import TritonBackend
from graphopt.codegen.triton.compile import compile_variant
from graphopt.codegen.triton.experts import FEW_TOKENS, MOST_EXPERTS, experts_kernel
from graphopt.codegen.triton.kernel import TritonKernel
from graphopt.codegen.triton.resources import SHARED_BYTES, Resources, resources_of
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph
from graphopt.ir.ops import ACTIVATIONS
from graphopt.ir.ops_nn import EXPERT_FORMS
from graphopt.ir.shape import parse_dim, sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.region import make_region

from ..region_case import random_operands
from .region_run import RegionCase, check, check_family, interpreted

TOLERANCE = {DType.F32: 1e-5, DType.BF16: 1e-2, DType.F16: 2e-3}


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of layer, and its sizes."""

    dtype: DType
    activation: str = "silu"
    form: str = "concat"
    gated: bool = True
    transposed: bool = False
    bias: bool = False
    chosen: int = 2
    experts: int = 5
    hidden: int = 48
    narrow: int = 32
    shares: DType = DType.F32
    rows: str = "T"
    views: bool = False


FORMS = (
    Form(DType.BF16),
    Form(DType.BF16, "gelu_tanh", "interleaved", transposed=True, hidden=37, narrow=21, bias=True),
    Form(
        DType.BF16, "silu", "interleaved_clamped", bias=True, transposed=True, chosen=3, narrow=75
    ),
    Form(DType.BF16, "relu2", gated=False, experts=1, chosen=1, hidden=1, narrow=1),
    Form(DType.F32, "gelu", "concat_limited", bias=True, chosen=4, experts=4, hidden=33, narrow=41),
    Form(DType.F32, "quick_gelu", "concat_clamped", bias=True, hidden=17, narrow=16, rows="R"),
    Form(DType.F32, "tanh", "interleaved", chosen=1, hidden=70, narrow=3, views=True),
    Form(DType.F32, "identity", gated=False, bias=True, transposed=True, hidden=5, narrow=40),
    Form(DType.F16, "relu", "concat", transposed=True, hidden=31, narrow=33, shares=DType.F16),
    Form(DType.F16, "sigmoid", "interleaved_clamped", chosen=6, experts=3, hidden=129, narrow=7),
    Form(DType.BF16, "silu", "concat_limited", experts=12, hidden=130, shares=DType.BF16),
    Form(DType.F32, experts=3, hidden=20, narrow=12, rows="7"),
    Form(DType.F32, experts=3, hidden=20, narrow=12, rows="2 * T"),
)
MIXTRAL = Form(DType.BF16, experts=8, hidden=4096, narrow=14336, shares=DType.BF16)
QWEN3 = Form(DType.BF16, chosen=8, experts=128, hidden=2048, narrow=768, shares=DType.BF16)
GPT_OSS = Form(
    DType.BF16,
    form="interleaved_clamped",
    transposed=True,
    bias=True,
    chosen=4,
    experts=32,
    hidden=2880,
    narrow=2880,
    shares=DType.BF16,
)
DEEPSEEK = Form(DType.BF16, chosen=8, experts=256, hidden=7168, narrow=2048)


def test_every_form_and_activation_is_there() -> None:
    assert {form.form for form in FORMS if form.gated} == set(EXPERT_FORMS)
    assert {form.activation for form in FORMS} == set(ACTIVATIONS)


def graph_of(form: Form) -> Graph:
    b = GraphBuilder("experts")
    rows = parse_dim(form.rows)
    wide = form.narrow * (2 if form.gated else 1)
    first, second = (form.experts, wide, form.hidden), (form.experts, form.hidden, form.narrow)
    if form.transposed:
        first, second = (first[0], first[2], first[1]), (second[0], second[2], second[1])
    if form.views:  # one of two halves, and a turned matrix
        both = b.input("x", TensorType(form.dtype, (rows, 2 * form.hidden)))
        x = b.node("split", [both], {"dim": 1, "sizes": (form.hidden, form.hidden)})[1]
        turned = b.input("ids", TensorType(DType.I64, (form.chosen, rows)))
        ids = b.one("permute", [turned], {"dims": (1, 0)})
    else:
        x = b.input("x", TensorType(form.dtype, (rows, form.hidden)))
        ids = b.input("ids", TensorType(DType.I64, (rows, form.chosen)))
    inputs = [
        x,
        ids,
        b.input("shares", TensorType(form.shares, (rows, form.chosen))),
        b.weight("up", TensorType(form.dtype, first)),
        b.weight("down", TensorType(form.dtype, second)),
    ]
    if form.bias:
        inputs.append(b.weight("up_bias", TensorType(form.dtype, (form.experts, wide))))
        inputs.append(b.weight("gate", TensorType(form.dtype, (form.experts, form.hidden))))
    attrs: dict[str, Attr] = {
        "activation": form.activation,
        "form": form.form,
        "limit": 0.7,
        "alpha": 1.702,
        "transposed": form.transposed,
        "gated": form.gated,
        "bias": form.bias,
    }
    return b.finish([b.one("moe_experts", inputs, attrs)])


@cache
def case_of(form: Form) -> RegionCase:
    graph = graph_of(form)
    region = make_region(graph, range(len(graph.nodes)), family="experts")
    kernel = experts_kernel(graph, region)
    assert isinstance(kernel, TritonKernel), kernel
    return RegionCase(graph, region, kernel)


def operands(
    form: Form, tokens: int, routing: str, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    found = random_operands(case_of(form), {"T": tokens, "R": tokens}, generator)
    shape = list(found["ids"].shape)
    ids = torch.randint(0, form.experts, shape, generator=generator)
    if routing == "one":
        ids[:] = form.experts - 1
    if routing == "outside":
        odd = torch.tensor([-1, form.experts, 1 << 40, -(1 << 62)])
        chosen = odd[torch.randint(0, len(odd), shape, generator=generator)]
        ids = torch.where(torch.rand(shape, generator=generator) < 0.5, chosen, ids)
    if routing == "none":
        ids.fill_(form.experts)
    return {**found, "ids": ids}


@pytest.mark.interpreted
@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    tokens=st.integers(1, 9),
    routing=st.sampled_from(("any", "any", "one", "outside", "none")),
    place=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_kernels_agree_with_the_interpreter(
    form: Form, tokens: int, routing: str, place: int, seed: int
) -> None:
    case, env = case_of(form), {"T": tokens, "R": tokens}
    variant = case.kernel.variants[min(place, len(case.kernel.variants) - 1)]
    given_ = operands(form, tokens, routing, torch.Generator().manual_seed(seed))
    check(case, variant, given_, env, TOLERANCE[form.dtype])


@pytest.mark.interpreted
def test_more_pairs_than_are_counted_at_once() -> None:
    form = Form(DType.F32, chosen=6, experts=3, hidden=8, narrow=4)
    given_ = operands(form, 200, "outside", torch.Generator().manual_seed(2))
    case = case_of(form)
    check(case, case.kernel.variants[-1], given_, {"T": 200, "R": 200}, TOLERANCE[form.dtype])


@pytest.mark.interpreted
def test_a_token_is_the_same_whatever_else_is_in_the_step() -> None:
    case, form = case_of(FORMS[0]), FORMS[0]
    variant = case.kernel.variants[1]
    given_ = operands(form, 24, "any", torch.Generator().manual_seed(3))
    (whole,) = interpreted(case, variant, given_, {"T": 24, "R": 24})
    alone = {**given_, **{name: given_[name][17:18] for name in ("x", "ids", "shares")}}
    (one,) = interpreted(case, variant, alone, {"T": 1, "R": 1})
    assert torch.equal(one[0], whole[17])


@pytest.mark.interpreted
@pytest.mark.full
@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_oss", "mixtral", "qwen3_moe", "aria_text"])
def test_real_families(name: str) -> None:
    check_family(name, "experts", experts_kernel, TOLERANCE[DType.BF16])


def test_steps_run_the_variant_for_their_tokens() -> None:
    few, *many = case_of(MIXTRAL).kernel.variants
    assert few.below == {"T": FEW_TOKENS}
    assert [launch.function.rsplit("_", 1)[1] for launch in few.launches] == ["first", "second"]
    assert [one.then[0].constants["ROWS"] for one in many] == [16, 64, 128]
    assert [dict(one.below) for one in many] == [{"T": 64}, {"T": 256}, {}]
    for one in many:
        names = [launch.function.rsplit("_", 1)[1] for launch in one.launches]
        assert names == ["route", "first", "second", "combine"]
        # Every expert may have a tile that is not full.
        assert one.then[0].programs({"T": 1000})[0] == 2000 // one.then[0].constants["ROWS"] + 8
    assert [one.below for one in case_of(FORMS[-1]).kernel.variants] == [{}]


def resources(form: Form, arch: int) -> list[tuple[str, Resources]]:
    kernel = case_of(form).kernel
    launches = {
        (launch.function, *launch.constants.values()): launch
        for variant in kernel.variants
        for launch in variant.launches
    }
    return [
        (launch.function.removeprefix(f"{kernel.name}_"), found)
        for launch in launches.values()
        if (found := resources_of(compile_variant(kernel, launch, arch)))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "arch"),
    [
        pytest.param(form, arch, marks=[] if (arch, form) == (90, QWEN3) else [pytest.mark.full])
        for arch in (80, 90)
        for form in (QWEN3, MIXTRAL, GPT_OSS, DEEPSEEK)
    ],
    ids=lambda one: f"{one.experts}x{one.hidden}" if isinstance(one, Form) else str(one),
)
def test_nothing_spills_and_products_run_on_tensor_cores(form: Form, arch: int) -> None:
    every = resources(form, arch)
    for name, found in every:
        assert found.problems() == [], name
        assert found.shared_bytes <= SHARED_BYTES[89], name
        if name in ("few_first", "few_second", "first", "second"):
            assert found.wide_loads, name
        if name in ("first", "second"):
            assert found.has_tensor_cores, name
    if arch == 90:
        assert sum(found.has_wgmma for _, found in every) == 4


def test_experts_of_no_fixed_size_are_refused() -> None:
    b = GraphBuilder("odd")
    rows = sym("T")
    inputs = [
        b.input("x", TensorType(DType.F32, (rows, 4))),
        b.input("ids", TensorType(DType.I64, (rows, sym("R")))),
        b.input("shares", TensorType(DType.F32, (rows, sym("R")))),
        b.weight("up", TensorType(DType.F32, (3, 8, 4))),
        b.weight("down", TensorType(DType.F32, (3, 4, 4))),
    ]
    graph = b.finish([b.one("moe_experts", inputs)])
    verdict = experts_kernel(graph, make_region(graph, [0], family="experts"))
    assert isinstance(verdict, Verdict)
    assert "no fixed size" in verdict.reason


def test_experts_in_few_bits_are_refused() -> None:
    b = GraphBuilder("rounded")
    inputs = [
        b.input("x", TensorType(DType.BF16, (sym("T"), 64))),
        b.input("ids", TensorType(DType.I64, (sym("T"), 2))),
        b.input("shares", TensorType(DType.BF16, (sym("T"), 2))),
        b.weight("up", TensorType(DType.I8, (3, 256, 64))),
        b.weight("up.scales", TensorType(DType.F16, (3, 256, 1))),
        b.weight("down", TensorType(DType.I8, (3, 64, 128))),
        b.weight("down.scales", TensorType(DType.F16, (3, 64, 2))),
    ]
    graph = b.finish([b.one("quantized_experts", inputs, {"bits": 8, "group": 64})])
    region = make_region(graph, [0], family="experts")
    verdict = experts_kernel(graph, region)
    assert isinstance(verdict, Verdict)
    assert "experts in few bits" in verdict.reason
    backend = TritonBackend(graph, [region], 16)
    assert backend.claims(graph, region) == verdict
    assert backend.layouts == {}


def test_what_has_no_kernel_is_refused_with_a_reason() -> None:
    for form, reason in (
        (Form(DType.F64), "f64"),
        (Form(DType.F32, experts=MOST_EXPERTS + 1), "more than"),
    ):
        graph = graph_of(form)
        verdict = experts_kernel(graph, make_region(graph, [0], family="experts"))
        assert isinstance(verdict, Verdict)
        assert reason in verdict.reason
