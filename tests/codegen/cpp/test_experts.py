"""Layers of experts against the interpreter: every form and activation, any routing, any team."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.cpp.experts import experts_kernel, experts_layouts
from graphopt.codegen.cpp.kernel import Kernel
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph
from graphopt.ir.ops import ACTIVATIONS
from graphopt.ir.ops_nn import EXPERT_FORMS
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Verdict
from graphopt.packing import Layout
from graphopt.quantization import quant_of
from graphopt.region import make_region

from ..region_case import expected, random_operands
from .kernel_cases import (
    KernelCase,
    check,
    family_cases,
    library_of,
    native,
)
from .native import ISAS

TOLERANCE = {DType.F32: 5e-6, DType.BF16: 1e-2, DType.F16: 1e-3}


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
    bits: int = 0

    @property
    def tolerance(self) -> float:
        """Of the interpreter's results.

        A sum that is off by a last digit may round to the next of 127 steps.
        """
        return 1e-2 if self.bits else TOLERANCE[self.dtype]


FORMS = (
    Form(DType.BF16),
    Form(DType.BF16, "gelu_tanh", "interleaved", transposed=True, hidden=37, narrow=21, bias=True),
    Form(
        DType.BF16, "silu", "interleaved_clamped", bias=True, transposed=True, chosen=3, narrow=75
    ),
    Form(DType.BF16, "relu2", gated=False, experts=1, chosen=1, hidden=1, narrow=1),
    Form(DType.F32, "gelu", "concat_limited", bias=True, chosen=4, experts=4, hidden=33, narrow=81),
    Form(DType.F32, "quick_gelu", "concat_clamped", bias=True, hidden=17, narrow=16, rows="R"),
    Form(DType.F32, "tanh", "interleaved", chosen=1, hidden=70, narrow=3),
    Form(DType.F32, "identity", gated=False, bias=True, transposed=True, hidden=5, narrow=130),
    Form(DType.F16, "relu", "concat", transposed=True, hidden=31, narrow=33, shares=DType.F16),
    Form(DType.F16, "sigmoid", "interleaved_clamped", chosen=6, experts=3, hidden=129, narrow=7),
    Form(DType.BF16, "silu", "concat_limited", experts=40, hidden=130, shares=DType.BF16),
)
# Neither sizes of panels nor of groups; groups that are one, many, and an odd number.
ROUNDED = (
    Form(DType.BF16, bits=8, hidden=130, narrow=65),
    Form(DType.BF16, "gelu_tanh", "interleaved", bias=True, hidden=37, narrow=21, bits=4),
    Form(DType.F32, "silu", "interleaved_clamped", bias=True, chosen=3, narrow=75, bits=8),
    Form(DType.F32, "silu", "concat_limited", chosen=4, experts=4, hidden=33, narrow=161, bits=4),
    Form(DType.F16, "relu2", gated=False, bias=True, hidden=5, narrow=33, rows="R", bits=8),
    Form(DType.BF16, gated=False, experts=1, chosen=1, hidden=1, narrow=1, bits=4),
    Form(DType.F32, "silu", "concat", experts=40, hidden=257, narrow=200, chosen=6, bits=4),
)
ALL = (*FORMS, *ROUNDED)


def test_every_form_and_activation_is_there() -> None:
    assert {form.form for form in FORMS if form.gated} == set(EXPERT_FORMS)
    assert {form.activation for form in FORMS} == set(ACTIVATIONS)


def graph_of(form: Form) -> Graph:
    b = GraphBuilder("experts")
    rows = sym(form.rows)
    wide = form.narrow * (2 if form.gated else 1)
    first, second = (form.experts, wide, form.hidden), (form.experts, form.hidden, form.narrow)
    if form.transposed:
        first, second = (first[0], first[2], first[1]), (second[0], second[2], second[1])
    inputs = [
        b.input("x", TensorType(form.dtype, (rows, form.hidden))),
        b.input("ids", TensorType(DType.I64, (rows, form.chosen))),
        b.input("shares", TensorType(form.shares, (rows, form.chosen))),
    ]
    for name, shape in (("up", first), ("down", second)):
        if not form.bits:
            inputs.append(b.weight(name, TensorType(form.dtype, shape)))
            continue
        groups = quant_of(form.bits).groups(shape[2])
        inputs.append(b.weight(name, TensorType(DType.I8, shape)))
        inputs.append(b.weight(f"{name}.s", TensorType(DType.F16, (*shape[:2], groups))))
    if form.bias:
        inputs.append(b.weight("up_bias", TensorType(form.dtype, (form.experts, wide))))
        inputs.append(b.weight("gate", TensorType(form.dtype, (form.experts, form.hidden))))
    attrs: dict[str, Attr] = {
        "activation": form.activation,
        "form": form.form,
        "limit": 0.7,
        "alpha": 1.702,
        "gated": form.gated,
        "bias": form.bias,
    }
    if form.bits:
        attrs |= {"bits": form.bits, "group": quant_of(form.bits).group}
        return b.finish([b.one("quantized_experts", inputs, attrs)])
    attrs["transposed"] = form.transposed
    return b.finish([b.one("moe_experts", inputs, attrs)])


@cache
def case_of(form: Form) -> KernelCase:
    graph = graph_of(form)
    region = make_region(graph, [0], family="experts")
    layouts = experts_layouts(graph, region)
    kernel = experts_kernel(graph, region, layouts)
    assert isinstance(kernel, Kernel), kernel
    return KernelCase(graph, region, kernel, layouts)


@pytest.fixture(
    scope="module",
    params=[pytest.param(isa, marks=[pytest.mark.full] if isa != ISAS[0] else []) for isa in ISAS],
)
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return library_of((case_of(form).kernel for form in ALL), request.param)


def operands(
    form: Form, tokens: int, routing: str, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    case = case_of(form)
    given_ = random_operands(case, {"T": tokens, "R": tokens}, generator)
    given_["ids"] = ids_of(form, [tokens, form.chosen], routing, generator)
    limit = 1 << (form.bits - 1) if form.bits else 0
    for value in case.graph.weights:
        if (old := given_[value.name]).dtype is torch.int8:
            new = torch.randint(-limit, limit, old.shape, generator=generator)
            given_[value.name] = new.to(torch.int8)
        elif value.name.endswith(".s"):
            given_[value.name] = old / (2 * limit)
    return given_


def ids_of(form: Form, shape: list[int], routing: str, generator: torch.Generator) -> torch.Tensor:
    ids = torch.randint(0, form.experts, shape, generator=generator)
    if routing == "one":
        ids[:] = form.experts - 1
    if routing == "outside":
        odd = torch.tensor([-1, form.experts, 1 << 40, -(1 << 62)])
        chosen = odd[torch.randint(0, len(odd), shape, generator=generator)]
        ids = torch.where(torch.rand(shape, generator=generator) < 0.5, chosen, ids)
    return ids.fill_(form.experts) if routing == "none" else ids


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(ALL),
    tokens=st.one_of(st.integers(0, 9), st.integers(0, 60), st.just(300)),
    routing=st.sampled_from(("any", "one", "outside", "none")),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_kernels_agree_with_the_interpreter(
    library: ctypes.CDLL, form: Form, tokens: int, routing: str, threads: int, seed: int
) -> None:
    given_ = operands(form, tokens, routing, torch.Generator().manual_seed(seed))
    env = {"T": tokens, "R": tokens}
    check(library, case_of(form), given_, env, threads, form.tolerance)


@pytest.mark.parametrize("form", [form for form in ROUNDED if form.dtype is DType.F32])
def test_rounding_is_the_interpreters_but_for_few_tokens(library: ctypes.CDLL, form: Form) -> None:
    """Of which a number lay between two steps."""
    given_ = operands(form, 200, "any", torch.Generator().manual_seed(5))
    env = {"T": 200, "R": 200}
    (got,) = native(library, case_of(form), given_, env, 2)
    (want,) = expected(case_of(form), given_)
    off = (got - want).norm(dim=1) / want.norm(dim=1)
    assert (off < 1e-5).sum() >= 190
    assert off.max() < 5e-2


def test_the_sum_of_a_token_does_not_depend_on_threads(library: ctypes.CDLL) -> None:
    for form in (FORMS[0], FORMS[4], FORMS[8], FORMS[10], *ROUNDED):
        given_ = operands(form, 70, "any", torch.Generator().manual_seed(1))
        alone, *others = (
            native(library, case_of(form), given_, {"T": 70, "R": 70}, threads)[0]
            for threads in (1, 2, 3, 5)
        )
        for other in others:
            assert torch.equal(alone, other)


@pytest.mark.full
@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_oss", "mixtral", "qwen3_moe", "aria_text"])
def test_real_families(name: str) -> None:
    real = family_cases(name, "experts")
    assert real
    code = library_of((case.kernel for case in real), ISAS[0])
    for tokens in (1, 2, 19):
        env = {"T": tokens, "R": 1}
        for case in real:
            given_ = random_operands(case, env, torch.Generator().manual_seed(tokens))
            check(code, case, given_, env, 2, TOLERANCE[DType.BF16])


def test_weights_that_lie_otherwise_are_refused() -> None:
    case = case_of(FORMS[0])
    other = {**case.layouts, "up": Layout.whole(64, 48, batch=5)}
    for layouts in ({}, other):
        verdict = experts_kernel(case.graph, case.region, layouts)
        assert isinstance(verdict, Verdict)
        assert "not packed" in verdict.reason


def test_groups_that_no_kernel_reads_are_refused() -> None:
    graph = graph_of(ROUNDED[0])
    node = graph.nodes[0]
    b = GraphBuilder("odd")
    inputs = [b.input(v.name, v.type) for v in node.inputs[:3]]
    for value, columns in zip(node.inputs[3:], (130, 130, 65, 65), strict=True):
        assert isinstance(value.type, TensorType)
        groups = (columns + 31) // 32 if value.type.dtype is DType.F16 else columns
        inputs.append(
            b.weight(value.name, TensorType(value.type.dtype, (*value.type.shape[:2], groups)))
        )
    odd = b.finish([b.one("quantized_experts", inputs, {**node.attrs, "group": 32})])
    region = make_region(odd, [0], family="experts")
    assert experts_layouts(odd, region) == {}
    assert isinstance(experts_kernel(odd, region, {}), Verdict)


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
    region = make_region(graph, [0], family="experts")
    assert experts_layouts(graph, region) == {}
    assert isinstance(experts_kernel(graph, region, {}), Verdict)
