"""Kernels of attention regions: what they refuse, and that they compute what the reference does."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from graphopt.codegen.cpp.attention import attention_kernel, attention_scratch
from graphopt.codegen.cpp.kernel import Kernel
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, TensorType
from graphopt.ledger import Verdict
from graphopt.region import Region, make_region

from .attention_batch import (
    Array,
    Batch,
    Case,
    decoded,
    encoded,
    make_batch,
    relative_error,
    written_memory,
)
from .native import ISAS, compile_source, run_team

T, S, P = sym("T"), sym("S"), sym("P")


def region_of(case: Case, form: str = "plain") -> tuple[Graph, Region]:
    """Attention whose queries lie in what a projection made, arranged in one of several ways."""
    b = GraphBuilder("attend")
    layer, dtype = case.layer, case.query
    query, views = _queries(b, form, case.heads, layer.key_size, dtype)
    inputs = [
        query,
        b.input("kv", case.state),
        b.input("starts", TensorType(DType.I32, (S + 1,))),
        b.input("lengths", TensorType(DType.I32, (S,))),
        b.input("tables", TensorType(DType.I32, (S, P))),
    ]
    for name in ("sinks", "alibi"):
        if getattr(case, name):
            inputs.append(b.weight(name, TensorType(dtype, (case.heads,))))
    if case.reach:
        inputs.append(b.input("reaches", TensorType(DType.I32, (T,))))
    (out,) = b.node("attention", inputs, case.attrs)
    graph = b.finish([out])
    return graph, make_region(graph, range(views + 1), family="attention")


def _queries(b: GraphBuilder, form: str, heads: int, size: int, dtype: DType) -> tuple[Value, int]:
    """The queries, and how many views lead to them."""
    if form == "plain":
        return b.input("q", TensorType(dtype, (T, heads, size))), 0
    wide = b.input("q", TensorType(dtype, (T, heads * size * 3)))
    if form == "split":  # queries, keys and values follow each other
        parts = b.node("split", [wide], {"sizes": (heads * size,) * 3, "dim": 1})
        return b.node("reshape", [parts[1]], {"shape": (T, heads, size)})[0], 2
    # a head's query, key and value follow each other
    (apart,) = b.node("reshape", [wide], {"shape": (T, heads, 3, size)})
    return b.node("select", [apart], {"dim": 2, "index": 1})[0], 2


def run(isa: str, batch: Batch, form: str = "plain", threads: int = 2) -> Array:
    """What the kernel made for the batch's case gives, as float64."""
    case = batch.case
    kernel = attention_kernel(*region_of(case, form), {})
    assert isinstance(kernel, Kernel)
    source = f"{kernel.source}using namespace gopt;\n"
    library = compile_source(source, isa, kernels=(f"call_{kernel.name}",), flags=("-O1",))
    tokens, size = batch.queries.shape[0], case.layer.key_size
    arranged = np.full((tokens, 3, case.heads, size), np.nan)
    arranged[:, 1] = batch.queries
    if form == "select":
        arranged = arranged.transpose(0, 2, 1, 3)
    given = batch.queries if form == "plain" else arranged
    out = encoded(np.full((tokens, case.heads, case.layer.value_size), np.nan), case.query)
    extra = [(batch.sinks, case.sinks), (batch.slopes, case.alibi)]
    run_team(
        library,
        f"call_{kernel.name}",
        [
            encoded(given, case.query),
            *written_memory(batch, isa),
            batch.starts,
            batch.lengths,
            batch.tables,
            *(encoded(array, case.query) for array, used in extra if used),
            *([batch.reaches] if case.reach else []),
            out,
        ],
        sizes=(tokens, 1, len(batch.lengths), batch.tables.shape[1]),
        threads=threads,
        scratch_bytes=kernel.scratch_bytes,
        block_size=case.block,
    )
    return decoded(out, case.query)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["plain", "split", "select"])
def test_queries_are_read_where_they_lie(isa: str, form: str) -> None:
    case = Case(LayerState(2, 16, 24, DType.F32), 6, 16, DType.F32, window=9, softcap=2.0)
    batch = make_batch(case, [40, 7, 0], [3, 7, 0], 1)
    assert relative_error(run(isa, batch, form), batch.expected()) < 2e-6


@pytest.mark.parametrize("isa", ISAS)
def test_sinks_and_alibi(isa: str) -> None:
    case = Case(LayerState(2, 16, 24, DType.F32), 6, 5, DType.F32, sinks=True, alibi=True)
    batch = make_batch(case, [40, 7], [3, 1], 1)
    assert relative_error(run(isa, batch), batch.expected()) < 2e-6


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("window", [0, 9])
def test_rows_that_reach_ahead(isa: str, dtype: DType, window: int) -> None:
    layer = LayerState(2, 16, 24, dtype)
    mask = "(k + head) * 5 > q"
    case = Case(layer, 6, 19, dtype, window=window, sinks=True, alibi=True, reach=True, mask=mask)
    batch = make_batch(case, [150, 1, 33, 30], [150, 1, 20, 30], 3)
    batch.reaches[:150], batch.reaches[-30:] = 150, 2**31 - 1
    out, expected = run(isa, batch, "select", threads=3), batch.expected()
    assert relative_error(out, expected) < (5e-6 if dtype is DType.F32 else 8e-3)
    batch.reaches[:] = 0
    assert relative_error(batch.expected(), expected) > 0.1


@pytest.mark.parametrize("latent", [False, True])
def test_rows_that_reach_nothing_are_as_without(latent: bool) -> None:
    layer = LayerState(1, 40, 24, DType.BF16)
    plain, reaching = (Case(layer, 3, 16, DType.BF16, latent, reach=one) for one in (False, True))
    batch = make_batch(plain, [400, 70], [100, 1], 5)
    out = run(ISAS[0], batch)
    batch.case, batch.reaches = reaching, np.full_like(batch.reaches, -1)
    assert (run(ISAS[0], batch) == out).all()


# Every function and operator of expressions; scores stay small.
_SCORE = (
    "where((q - k < 3) & ((head == 2) == 0) | (sequence >= 1),"
    " score - pow(0.5, head + 1.0) * (q - k),"
    " tanh(score) + sin(k) * cos(q) - erf(abs(score)) + maximum(minimum(score, 1), -1)"
    " + log1p(abs(k)) / sqrt(q + 1) - rsqrt(q + 2) + exp(-abs(score)) - log(q + 1) / 9"
    " + floor(score) / 4 + ceil(score) / 8 + round(score) / 16 + tan(score / 20))"
)
_MASK = "(floor_div(k, 4) == floor_div(q, 4)) | (remainder(k, 5) < 2) & (k > 0)"


@pytest.mark.parametrize("isa", ISAS)
def test_expressions_of_a_user(isa: str) -> None:
    layer = LayerState(2, 16, 24, DType.F32)
    case = Case(layer, 6, 16, DType.F32, alibi=True, softcap=3.0, score=_SCORE, mask=_MASK)
    batch = make_batch(case, [75, 40, 7], [20, 1, 7], 1)
    expected = batch.expected()
    # The scalar functions of positions around 75 are known to 1e-5.
    assert relative_error(run(isa, batch), expected) < 1e-5
    assert np.isfinite(expected).all()


@pytest.mark.parametrize("isa", ISAS)
def test_rows_that_see_nothing_are_zeros(isa: str) -> None:
    case = Case(LayerState(1, 8, 8, DType.F32), 2, 16, DType.F32, mask="(k >= 20) & (head < 1)")
    batch = make_batch(case, [30, 300], [30, 1], 1)
    out, expected = run(isa, batch), batch.expected()
    assert not expected[:20].any()
    assert not expected[:, 1].any()
    assert relative_error(out, expected) < 2e-6
    assert not out[:20].any()
    assert not out[:, 1].any()


def test_layers_that_are_alike_share_a_kernel() -> None:
    case = Case(LayerState(2, 16, 24, DType.F32), 6, 16, DType.F32)
    one, other = (attention_kernel(*region_of(case, form), {}) for form in ("plain", "plain"))
    assert isinstance(one, Kernel)
    assert isinstance(other, Kernel)
    assert one.name == other.name
    assert "layer" not in one.text
    assert "reaches" not in one.text


def _refusal(case: Case, form: str = "plain") -> str:
    verdict = attention_kernel(*region_of(case, form), {})
    assert isinstance(verdict, Verdict)
    assert not verdict.accepted
    return verdict.reason


def test_what_is_refused() -> None:
    narrow = LayerState(2, 16, 16, DType.F32)
    assert "f64" in _refusal(Case(narrow, 2, 16, DType.F64))
    assert "f64" in _refusal(Case(LayerState(2, 16, 16, DType.F64), 2, 16, DType.F32))


@pytest.mark.parametrize("isa", ISAS)
def test_scratch_is_the_header_s(isa: str) -> None:
    source = (
        '#include "attention.h"\n'
        'extern "C" __attribute__((visibility("default"))) int64_t size(int64_t k, int64_t v) {\n'
        "  return gopt::attention_scratch(k, v);\n}\n"
    )
    size = compile_source(source, isa, flags=("-O0",)).size
    size.restype = ctypes.c_int64
    for key, value in ((64, 64), (1, 1), (80, 100), (576, 512)):
        found = size(ctypes.c_int64(key), ctypes.c_int64(value))
        assert found == attention_scratch(key, value)
