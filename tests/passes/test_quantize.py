"""Weights that linear maps and embeddings read are rounded, each once, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from graphopt.errors import UsageError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.shape import sym
from graphopt.ir.types import TensorType
from graphopt.ledger import Entry, Ledger
from graphopt.passes.hoist import hoist
from graphopt.passes.manager import PassContext
from graphopt.passes.pipeline import decoder_pipeline
from graphopt.passes.quantize import Quantize, kept_notes
from graphopt.passes.quantize_schemes import Integers
from graphopt.stages import lower
from graphopt.target import Target

from .models import traced
from .numbers import operators, random_values, reasons, rewritten

K = 192  # columns
KINDS = ["int4", "int8"]


def matrix(b: GraphBuilder, name: str, rows: int = 48, columns: int = K) -> Value:
    return b.weight(name, TensorType(DType.F32, (rows, columns)))


def hidden(b: GraphBuilder, columns: int = K) -> Value:
    return b.input("x", TensorType(DType.F32, (sym("T"), columns)))


def tied() -> Graph:
    b = GraphBuilder("g")
    ids = b.input("ids", TensorType(DType.I64, (sym("T"),)))
    table = matrix(b, "table")
    rows = b.one("embed", [ids, table], {"scale": 2.0})
    bias = b.weight("b", TensorType(DType.F32, (48,)))
    return b.finish([rows, b.one("linear", [rows, table, bias])])


@pytest.mark.parametrize("kind", KINDS)
def test_a_tied_table_is_rounded_once(kind: str) -> None:
    after, entries = rewritten(tied(), Quantize(kind))
    assert operators(after) == ["quantize_weight", "quantized_embed", "quantized_linear"]
    assert len(entries) == 1
    assert entries[0].where.endswith("@table")
    assert entries[0].saves_bytes > 48 * K * 4 // 2
    split = hoist(after, Ledger())
    assert [v.name for v in split.constants.weights] == ["table"]
    assert [str(v.type.dtype) for v in split.graph.weights] == ["f32", "i8", "f16"]  # type: ignore[union-attr]
    assert [v.name for v in split.graph.weights] == ["b", "table.integers", "table.scales"]
    again, _ = rewritten(after, Quantize(kind))
    assert again is after


@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.02), ("int4", 0.2)])
def test_numbers_change_by_rounding_only(kind: str, limit: float) -> None:
    b = GraphBuilder("g")
    parts = [matrix(b, "q"), matrix(b, "k", 16)]
    y = b.one("linear", [hidden(b), b.one("concat", parts, {"dim": 0})])
    before = b.finish([y])
    after, _ = rewritten(before, Quantize(kind))
    assert operators(after) == ["concat", "quantize_weight", "quantized_linear"]
    inputs, weights = random_values(before, 13, 0)
    (wanted,), (found,) = (Interpreter(g, weights).run(inputs) for g in (before, after))
    assert 0 < (found - wanted).norm() <= limit * wanted.norm()


def test_what_reads_a_weight_in_another_way_keeps_it() -> None:
    b = GraphBuilder("g")
    w = matrix(b, "w")
    after, entries = rewritten(
        b.finish([b.one("linear", [hidden(b), w]), b.one("mul", [w], {"scalar": 2.0})]),
        Quantize("int8"),
    )
    assert operators(after) == ["linear", "mul"]
    assert "kept twice" in reasons(entries)
    b = GraphBuilder("g")
    w = matrix(b, "w")
    _, entries = rewritten(b.finish([b.one("linear", [hidden(b), w]), w]), Quantize("int8"))
    assert "kept twice" in reasons(entries)
    b = GraphBuilder("g")  # the same weight, turned, is too large to be kept twice
    ids = b.input("ids", TensorType(DType.I64, (sym("T"),)))
    w = matrix(b, "w", 4096, 1024)
    rows = b.one("embed", [ids, w])
    turned = b.one("permute", [w], {"dims": (1, 0)})
    x = b.input("x", TensorType(DType.F32, (sym("T"), 4096)))
    after, entries = rewritten(b.finish([rows, b.one("linear", [x, turned])]), Quantize("int4"))
    assert sorted(operators(after)) == ["embed", "linear", "permute"]
    assert "kept twice" in reasons(entries)


@pytest.mark.parametrize(("kind", "columns"), [("int8", 12), ("int4", 5)])
def test_rows_that_would_not_become_smaller_are_kept(kind: str, columns: int) -> None:
    for size, smaller in ((columns, False), (columns * 8, True)):
        b = GraphBuilder("g")
        w = matrix(b, "w", columns=size)
        graph = b.finish([b.one("linear", [hidden(b, size), w])])
        after, entries = rewritten(graph, Quantize(kind))
        assert ("quantized_linear" in operators(after)) is smaller
        assert ("too short" in reasons(entries)) is not smaller


def test_a_weight_that_is_made_in_the_step_or_for_a_constant_is_kept() -> None:
    b = GraphBuilder("g")
    w = b.input("w", TensorType(DType.F32, (48, K)))
    after, entries = rewritten(b.finish([b.one("linear", [hidden(b), w])]), Quantize("int8"))
    assert operators(after) == ["linear"]
    assert entries == ()
    b = GraphBuilder("g")
    y = b.one("linear", [matrix(b, "a"), matrix(b, "w")])
    after, _ = rewritten(b.finish([b.one("add", [y], {"scalar": 1.0})]), Quantize("int8"))
    assert operators(after) == ["linear", "add"]


@pytest.mark.parametrize("raised", [False, True])
@pytest.mark.parametrize("weight_only", [False, True])
def test_routers_and_weights_per_head_are_kept(raised: bool, weight_only: bool) -> None:
    """And experts, where there is no kernel for them."""
    b = GraphBuilder("g")
    x = hidden(b)
    logits = b.one("linear", [x, matrix(b, "router", 8)])
    if raised:
        weights, ids = b.node("moe_router", [logits], {"k": 2, "scores": "softmax"})
    else:
        weights, ids = b.node("topk", [b.one("softmax", [logits], {"dim": -1})], {"k": 2})
    first = b.weight("first", TensorType(DType.F32, (8, 128, K)))
    second = b.weight("second", TensorType(DType.F32, (8, K, 64)))
    y = b.one("moe_experts", [x, ids, weights, first, second])
    heads = b.one("reshape", [y], {"shape": (sym("T"), 3, 1, K // 3)})
    per_head = b.weight("heads", TensorType(DType.F32, (3, K // 3, 64)))
    graph = b.finish([b.one("matmul", [heads, per_head]), b.one("linear", [y, matrix(b, "w")])])
    after, entries = rewritten(graph, Quantize("int8", weight_only=weight_only))
    assert operators(after).count("quantized_linear") == 1
    assert operators(after).count("linear") == 1
    assert operators(after).count("quantized_experts") == (not weight_only)
    refused = {entry.where.rpartition("@")[2] for entry in entries if not entry.applied}
    assert refused == {"router", "heads", *(("first", "second") if weight_only else ())}
    assert "chooses experts" in reasons(entries)
    notes = kept_notes(entries)
    assert len(notes) == 2 + weight_only
    assert notes[0].startswith("1 weight is not rounded (router): its result chooses experts")
    assert any("(first, second): weights of experts" in note for note in notes) is weight_only


def experts(
    *, transposed: bool = False, bias: bool = False, narrow: int = 64, again: bool = False
) -> Graph:
    """A layer of experts; ``again`` reads the second layer's weights in another way, too."""
    b = GraphBuilder("g")
    x = hidden(b)
    ids = b.input("ids", TensorType(DType.I64, (sym("T"), 2)))
    shares = b.input("shares", TensorType(DType.F32, (sym("T"), 2)))
    shapes = [(4, 2 * narrow, K), (4, K, narrow)]
    if transposed:
        shapes = [(e, columns, rows) for e, rows, columns in shapes]
    names = ("first", "second")
    layers = [b.weight(n, TensorType(DType.F32, s)) for n, s in zip(names, shapes, strict=True)]
    more = [(4, 2 * narrow), (4, K)] if bias else []
    biases = [b.weight(f"b{s[1]}", TensorType(DType.F32, s)) for s in more]
    attrs = {"transposed": transposed, "bias": bias, "form": "interleaved"}
    y = b.one("moe_experts", [x, ids, shares, *layers, *biases], attrs)
    more_results = [b.one("mul", [layers[1]], {"scalar": 2.0})] if again else []
    return b.finish([y, *more_results])


@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.03), ("int4", 0.3)])
@pytest.mark.parametrize("transposed", [False, True])
def test_experts_change_by_rounding_only(kind: str, limit: float, transposed: bool) -> None:
    before = experts(transposed=transposed, bias=True)
    after, entries = rewritten(before, Quantize(kind))
    moved = ["permute"] if transposed else []
    rounding = [*moved, "quantize_weight"] * 2
    assert operators(after) == [*rounding, "quantized_experts"]
    assert [entry.where.rpartition("@")[2] for entry in entries] == ["first", "second"]
    assert kept_notes(entries) == []
    whole = hoist(after, Ledger())
    assert operators(whole.graph) == ["quantized_experts"]
    names = {value.name for value in whole.graph.weights if value.name[0] in "fs"}
    parts = ("integers", "scales")
    assert names == {f"{layer}.{part}" for layer in ("first", "second") for part in parts}
    inputs, weights = random_values(before, 13, 0)
    inputs["ids"] = inputs["ids"] % 4
    (wanted,), (found,) = (Interpreter(g, weights).run(inputs) for g in (before, after))
    assert 0 < (found - wanted).norm() <= limit * wanted.norm()


def test_a_note_names_what_was_kept_and_why() -> None:
    entries = [
        *(Entry("quantize", f"%1 m.{n}.gate @m.{n}.gate.weight", False, "why") for n in range(3)),
        Entry("quantize", "%2 m.0.attention %7", False, "why"),
        Entry("quantize", "%3 m.0.mlp @m.0.mlp.weight", True, "8 bits"),
        Entry("merge", "%3 m.0.mlp @m.0.mlp.weight", False, "no"),
        *(Entry("quantize", f"%1 m @{name}.weight", False, "other") for name in "abcd"),
    ]
    assert kept_notes(entries) == [
        "4 weights are not rounded (m.*.gate.weight, m.*.attention): why",
        "4 weights are not rounded (a.weight, b.weight, c.weight and 1 more): other",
    ]


def test_experts_have_both_layers_rounded_or_neither() -> None:
    after, entries = rewritten(experts(again=True), Quantize("int8"))
    assert operators(after) == ["moe_experts", "mul"] or operators(after) == ["mul", "moe_experts"]
    assert [entry.applied for entry in entries] == [False, False]
    assert "other layer is kept: something else reads it too" in entries[0].reason
    after, entries = rewritten(experts(narrow=3), Quantize("int8"))
    assert operators(after) == ["moe_experts"]
    assert "other layer is kept: its rows are too short" in entries[0].reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_fuses_as_it_did(kind: str) -> None:
    decoder = traced("llama", layers=2)
    plain, rounded = (
        lower(
            decoder.graph,
            decoder_pipeline(decoder.scalars, chosen),
            Target.parse("cpu"),
            PassContext(),
        )
        for chosen in (None, kind)
    )
    names = [(region.family, region.name.replace("quantized_", "")) for region in rounded.regions]
    assert sorted(names) == sorted((region.family, region.name) for region in plain.regions)
    assert "quantized_embed" in operators(rounded.graph)
    assert operators(rounded.hoisted.constants).count("quantize_weight") == sum(
        type_.dtype is DType.I8
        for value in rounded.graph.weights
        if isinstance(type_ := value.type, TensorType)
    )


def test_rows_are_rounded_too_unless_only_weights_are_to_be() -> None:
    for weight_only in (False, True):
        after, _ = rewritten(tied(), Quantize("int4", weight_only=weight_only))
        assert after.nodes[-1].attrs["weight_only"] is weight_only
    (*_, last) = decoder_pipeline(quantize="int8", weight_only=True)
    assert isinstance(last, Quantize)
    assert last.scheme == Integers(8, weight_only=True, experts=False)


def test_one_asks_by_name() -> None:
    with pytest.raises(UsageError, match="no such quantization") as caught:
        Quantize("int3")
    assert "int4" in str(caught.value)
    assert "quantize" not in [one.name for one in decoder_pipeline()]
    assert decoder_pipeline(quantize="int8")[-1].name == "quantize"


def test_a_large_weight_is_rounded_in_pieces() -> None:
    b = GraphBuilder("g")
    graph = b.finish([b.one("linear", [hidden(b, 1024), matrix(b, "w", 1024, 1024)])])
    after, _ = rewritten(graph, Quantize("int4"))
    _, weights = random_values(graph, 1, 0)
    whole = hoist(after, Ledger()).constants
    alone = {"w": weights["w"][500:501].expand(1024, 1024)}
    integers, scales = Interpreter(whole, weights).run({})
    same, scale = Interpreter(whole, alone).run({})
    assert torch.equal(integers[500], same[7])
    assert torch.equal(scales[500], scale[7])
