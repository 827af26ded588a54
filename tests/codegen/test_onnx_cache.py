from __future__ import annotations

import numpy as np
import pytest

from graphopt.codegen.onnx_cache import past, present
from graphopt.codegen.onnx_export import export_decoder
from graphopt.errors import UnsupportedError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from tests.codegen.onnx_run import Session, compare, with_weights
from tests.runtime import tiny_decoder

T, R, S, P = sym("T"), sym("R"), sym("S"), sym("P")
VOCAB, HEADS, SIZE = 11, 4, 6


class Small:
    """Inputs of a decoder, and a way from tokens to logits, around whatever a test puts between."""

    def __init__(self, state: StateType) -> None:
        self.b = b = GraphBuilder("small")
        ids = b.input("token_ids", TensorType(DType.I64, (T,)))
        b.input("positions", TensorType(DType.I64, (T,)))
        self.rows = b.input("rows", TensorType(DType.I64, (R,)))
        self.slots = b.input("slots", TensorType(DType.I64, (T,)))
        self.tables = (
            b.input("starts", TensorType(DType.I32, (S + 1,))),
            b.input("lengths", TensorType(DType.I32, (S,))),
            b.input("tables", TensorType(DType.I32, (S, P))),
        )
        self.kv = b.input("kv", state)
        table = b.weight("embed", TensorType(DType.F32, (VOCAB, HEADS * SIZE)))
        self.hidden = b.one("embed", [ids, table])

    def heads(self, heads: int, name: str, size: int = SIZE) -> Value:
        weight = self.b.weight(name, TensorType(DType.F32, (heads * size, HEADS * SIZE)))
        projected = self.b.one("linear", [self.hidden, weight])
        return self.b.one("reshape", [projected], {"shape": (T, heads, size)})

    def attend(self, query: Value, kv: Value, *more: Value, **attrs: object) -> Value:
        merged = {"layer": 0, "scale": 0.4, **attrs}
        return self.b.one("attention", [query, kv, *self.tables, *more], merged)  # type: ignore[arg-type]

    def finish(self, *mixed: Value) -> Graph:
        b = self.b
        for part in mixed:
            heads, size = part.type.shape[1:]  # type: ignore[union-attr]
            flat = b.one("reshape", [part], {"shape": (T, heads * size)})
            weight = b.weight(f"o{heads * size}", TensorType(DType.F32, (24, heads * size)))
            self.hidden = b.one("add", [self.hidden, b.one("linear", [flat, weight])])
        last = b.one("index_select", [self.hidden, self.rows], {"dim": 0})
        head = b.weight("head", TensorType(DType.F32, (VOCAB, HEADS * SIZE)))
        return b.finish([b.one("linear", [last, head])])


def kv_state(*layers: LayerState) -> StateType:
    return StateType("kv", layers or (LayerState(2, SIZE, SIZE, DType.F32),))


def agrees(graph: Graph) -> bool:
    weights = tiny_decoder.weights_of(graph)
    model = with_weights(export_decoder(graph, {}), weights)
    return compare(model, graph, weights, VOCAB) < 1e-5


def test_groups_of_heads_and_a_window() -> None:
    graph = tiny_decoder.decoder()
    weights = tiny_decoder.weights_of(graph)
    model = with_weights(export_decoder(graph, {}), weights)
    assert compare(model, graph, weights, tiny_decoder.VOCAB) < 1e-5


@pytest.mark.parametrize("extra", [{"softcap": 2.0}, {"window": 1}, {"window": 3}])
def test_what_attention_may_ask_for(extra: dict[str, object]) -> None:
    small = Small(kv_state())
    kv = small.b.one(
        "kv_write", [small.kv, small.heads(2, "k"), small.heads(2, "v"), small.slots], {"layer": 0}
    )
    assert agrees(small.finish(small.attend(small.heads(HEADS, "q"), kv, **extra)))


def test_a_linear_bias_counts_positions_not_slots() -> None:
    small = Small(kv_state())
    kv = small.b.one(
        "kv_write", [small.kv, small.heads(2, "k"), small.heads(2, "v"), small.slots], {"layer": 0}
    )
    slopes = small.b.weight("slopes", TensorType(DType.F32, (HEADS,)))
    query = small.heads(HEADS, "q")
    assert agrees(small.finish(small.attend(query, kv, slopes, alibi=True, window=4)))


def test_values_of_another_size_and_two_readers_of_one_layer() -> None:
    small = Small(kv_state(LayerState(2, SIZE, 3, DType.F32)))
    key, value = small.heads(2, "k"), small.heads(2, "v", 3)
    kv = small.b.one("kv_write", [small.kv, key, value, small.slots], {"layer": 0})
    first = small.attend(small.heads(HEADS, "q"), kv)
    second = small.attend(small.heads(HEADS, "q2"), kv, window=2)
    assert agrees(small.finish(first, second))


def test_latent_state_keeps_keys_only() -> None:
    small = Small(StateType("latent", (LayerState(1, SIZE, 4, DType.F32),)))
    kv = small.b.one("latent_write", [small.kv, small.heads(1, "k"), small.slots], {"layer": 0})
    graph = small.finish(small.attend(small.heads(HEADS, "q"), kv))
    assert agrees(graph)
    names = [one.name for one in export_decoder(graph, {}).proto.graph.input]
    assert names == ["input_ids", "attention_mask", past(0, "key")]


def test_a_layer_that_nobody_reads_is_kept() -> None:
    small = Small(kv_state(*[LayerState(2, SIZE, SIZE, DType.F32)] * 3))
    kv = small.b.one(
        "kv_write", [small.kv, small.heads(2, "k"), small.heads(2, "v"), small.slots], {"layer": 0}
    )
    small.b.one(
        "kv_write", [kv, small.heads(2, "k"), small.heads(2, "v"), small.slots], {"layer": 1}
    )
    graph = small.finish(small.attend(small.heads(HEADS, "q"), kv))
    model = export_decoder(graph, {}).proto
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    made = [makers[present(layer, "key")] for layer in range(3)]
    assert made == ["Attention", "Concat", "Identity"]
    assert agrees(graph)


def test_padding_stays_a_number() -> None:
    graph = tiny_decoder.decoder()
    model = with_weights(export_decoder(graph, {}), tiny_decoder.weights_of(graph))
    mask = np.array([[0, 0, 1], [1, 1, 1]])
    assert np.isfinite(Session(model).step(np.array([[0, 0, 5], [1, 2, 3]]), mask)).all()


def test_attention_sinks_are_refused() -> None:
    small = Small(kv_state())
    kv = small.b.one(
        "kv_write", [small.kv, small.heads(2, "k"), small.heads(2, "v"), small.slots], {"layer": 0}
    )
    sinks = small.b.weight("sinks", TensorType(DType.F32, (HEADS,)))
    graph = small.finish(small.attend(small.heads(HEADS, "q"), kv, sinks, sinks=True))
    with pytest.raises(UnsupportedError, match="attention sinks"):
        export_decoder(graph, {})


def test_expressions_of_scores_are_refused() -> None:
    small = Small(kv_state())
    graph = small.finish(small.attend(small.heads(HEADS, "q"), small.kv, mask="q == k"))
    with pytest.raises(UnsupportedError, match="expressions of scores"):
        export_decoder(graph, {})


def test_a_cache_of_another_type_is_refused() -> None:
    small = Small(kv_state(LayerState(2, SIZE, SIZE, DType.F8E4M3)))
    small.b.one(
        "kv_write", [small.kv, small.heads(2, "k"), small.heads(2, "v"), small.slots], {"layer": 0}
    )
    with pytest.raises(UnsupportedError, match="another type, f8e4m3"):
        export_decoder(small.finish(), {})


def test_a_layer_written_twice_is_refused() -> None:
    small = Small(kv_state())
    kv = small.kv
    for _ in range(2):
        new = [kv, small.heads(2, "k"), small.heads(2, "v"), small.slots]
        kv = small.b.one("kv_write", new, {"layer": 0})
    with pytest.raises(UnsupportedError, match="written twice"):
        export_decoder(small.finish(), {})


def test_the_mask_is_made_once_for_a_window() -> None:
    graph = tiny_decoder.decoder()
    nodes = export_decoder(graph, {}).proto.graph.node
    masks = {node.input[3] for node in nodes if node.op_type == "Attention"}
    assert len(masks) == 2
    assert sum(node.op_type == "LessOrEqual" for node in nodes) == 2
