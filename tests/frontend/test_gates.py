from __future__ import annotations

from types import SimpleNamespace

import pytest

from graphopt.errors import TraceError, UnsupportedError
from graphopt.frontend.gates import (
    check_attention,
    check_bounds,
    check_rows,
    chunk_limit,
    coverage,
    state_of,
)
from graphopt.frontend.importer import AttentionCall
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import StateType, TensorType
from tests.models.harness import case, config_of

CONFIG = config_of("llama", num_hidden_layers=2)


def call(layer: int, chunk: int = 0, alibi: bool = False) -> AttentionCall:
    return AttentionCall(f"model.layers.{layer}", layer, chunk, alibi)


def graph(shape: tuple[Dim, ...] = (sym("R"), 9), positions: bool = True) -> Graph:
    builder = GraphBuilder("g")
    builder.input("rows", TensorType(DType.I64, (sym("R"),)))
    where = builder.input("positions", TensorType(DType.I64, (sym("T"),)))
    builder.input("kv", StateType("kv", ()))
    if positions:
        builder.one("neg", [where])
    out = builder.one("full", [], {"shape": shape, "dtype": DType.F32, "value": 0.0})
    return builder.finish([out])


def test_no_attention_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="calls no attention"):
        check_attention(graph(), [], CONFIG)


def test_one_attention_a_layer_leaves_no_doubt() -> None:
    assert check_attention(graph(), [call(0), call(1)], CONFIG) == ()


@pytest.mark.parametrize(
    ("calls", "doubt"),
    [
        ([call(0)], "1 attention calls in 2 layers"),
        ([call(0), call(1), call(0), call(1)], "4 attention calls in 2 layers"),
        ([call(0), call(0)], "layer 0 calls attention more than once"),
    ],
)
def test_other_numbers_of_calls_are_doubts(calls: list[AttentionCall], doubt: str) -> None:
    assert doubt in check_attention(graph(), calls, CONFIG)


def test_layers_without_numbers_are_no_doubt() -> None:
    assert check_attention(graph(), [call(-1), call(-1)], CONFIG) == ()


def test_unused_positions_are_a_doubt_unless_attention_has_them() -> None:
    blind = graph(positions=False)
    assert "positions are not used" in check_attention(blind, [call(0), call(1)], CONFIG)[0]
    biased = [call(0, alibi=True), call(1, alibi=True)]
    assert check_attention(blind, biased, CONFIG) == ()


def test_the_smallest_chunk_limits_the_context() -> None:
    assert chunk_limit([call(0), call(1)]) is None
    limit = chunk_limit([call(0), call(1, chunk=64), call(2, chunk=32)])
    assert limit is not None
    assert limit.tokens == 32


@pytest.mark.parametrize("shape", [(sym("T"), 9), (sym("R"),), (9, sym("R")), (sym("R"), sym("T"))])
def test_what_is_not_logits_is_refused(shape: tuple[Dim, ...]) -> None:
    with pytest.raises(TraceError, match="does not give a row for each token"):
        check_rows(graph(shape))


def test_logits_pass() -> None:
    check_rows(graph())


def test_a_bounded_batch_is_refused() -> None:
    def exported(upper: object) -> SimpleNamespace:
        bounds = SimpleNamespace(upper=upper)
        return SimpleNamespace(program=SimpleNamespace(range_constraints={"s1": bounds}))

    check_bounds(exported(float("inf")))
    with pytest.raises(TraceError, match="bounds the number of tokens") as error:
        check_bounds(exported(511))
    assert "511" in str(error.value.got)


def test_coverage_tells_layers_apart() -> None:
    kinds = coverage(case("gemma3_text").decoder.graph)
    attentions = {
        flags for path, op, *flags in kinds if op == "attention" for flags in [tuple(flags)]
    }
    assert attentions == {(), ("window",)}
    assert ("model.layers.*.self_attn.q_proj", "linear") in kinds


def test_the_state_is_found() -> None:
    assert state_of(graph()) == StateType("kv", ())
