"""For each rule a way of breaking it; random graphs pass unbroken and fail broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import VerifyError
from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Attr, Graph, Node, Operand, SourceLocation, Value
from graphopt.ir.ops import OPS
from graphopt.ir.parser import parse_graph
from graphopt.ir.shape import sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.ir.verify import verify

from .graphs import random_graph

F = TensorType(DType.F32, (sym("T"), 3))
KV = StateType("kv", (LayerState(1, 4, 4, DType.F32), LayerState(1, 4, 4, DType.F32)))


def changed(graph: Graph, index: int, **parts: object) -> Graph:
    """The graph with parts of a node replaced; later nodes read its new outputs."""
    old = graph.nodes[index]
    new = replace(old, **parts)  # type: ignore[arg-type]
    now = dict(zip(old.outputs, new.outputs, strict=False))
    nodes = [*graph.nodes[:index], new]
    for node in graph.nodes[index + 1 :]:
        nodes.append(replace(node, inputs=tuple(now.get(value, value) for value in node.inputs)))
    outputs = tuple(now.get(value, value) for value in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def with_attrs(graph: Graph, index: int, attrs: dict[str, Attr]) -> Graph:
    return changed(graph, index, attrs=MappingProxyType(attrs))


def renamed(value: Value, name: str) -> Value:
    return Value(name, value.type, value.is_weight)


Break = Callable[[Graph, Random], Graph | None]


def pick(
    graph: Graph, rng: Random, wanted: Callable[[Node], bool] = lambda node: True
) -> int | None:
    found = [i for i, node in enumerate(graph.nodes) if wanted(node)]
    return rng.choice(found) if found else None


def native(node: Node) -> bool:
    return node.op in OPS


def unknown_operator(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, native)
    return None if i is None else changed(graph, i, op="frobnicate")


def odd_operator(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng)
    return None if i is None else changed(graph, i, op="aten.a b")


def wrong_output_type(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, native)
    if i is None:
        return None
    outputs = list(graph.nodes[i].outputs)
    j = rng.randrange(len(outputs))
    outputs[j] = Value(outputs[j].name, TensorType(DType.F8E5M2, (1, 1, 1, 1, 1, 1)))
    return changed(graph, i, outputs=tuple(outputs))


def missing_output(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng)
    return None if i is None else changed(graph, i, outputs=())


def one_output_more(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, native)
    if i is None:
        return None
    return changed(graph, i, outputs=(*graph.nodes[i].outputs, Value("more", F)))


def read_before_definition(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: bool(node.inputs))
    if i is None:
        return None
    inputs = list(graph.nodes[i].inputs)
    inputs[rng.randrange(len(inputs))] = graph.nodes[rng.randrange(i, len(graph.nodes))].outputs[0]
    return changed(graph, i, inputs=tuple(inputs))


def read_of_a_stranger(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: bool(node.inputs))
    if i is None:
        return None
    inputs = list(graph.nodes[i].inputs)
    j = rng.randrange(len(inputs))
    inputs[j] = renamed(inputs[j], "stranger")
    return changed(graph, i, inputs=tuple(inputs))


def defined_twice(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng)
    if i is None:
        return None
    nodes = (*graph.nodes, graph.nodes[i])
    return replace(graph, nodes=nodes)


def name_taken_twice(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng)
    if i is None:
        return None
    outputs = list(graph.nodes[i].outputs)
    outputs[0] = renamed(outputs[0], graph.inputs[0].name)
    return changed(graph, i, outputs=tuple(outputs))


def output_not_defined(graph: Graph, rng: Random) -> Graph | None:
    return replace(graph, outputs=(*graph.outputs, Value("nowhere", F)))


def node_makes_a_weight(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng)
    if i is None:
        return None
    outputs = list(graph.nodes[i].outputs)
    outputs[0] = Value(outputs[0].name, outputs[0].type, is_weight=True)
    return changed(graph, i, outputs=tuple(outputs))


def weight_among_inputs(graph: Graph, rng: Random) -> Graph | None:
    return replace(graph, inputs=(*graph.inputs, Value("w", F, is_weight=True)))


def input_among_weights(graph: Graph, rng: Random) -> Graph | None:
    return replace(graph, weights=(*graph.weights, Value("w", TensorType(DType.F32, (3,)))))


def weight_of_unknown_size(graph: Graph, rng: Random) -> Graph | None:
    return replace(graph, weights=(*graph.weights, Value("unsized", F, is_weight=True)))


def state_as_weight(graph: Graph, rng: Random) -> Graph | None:
    return replace(graph, weights=(*graph.weights, Value("kvw", KV, is_weight=True)))


def input_defined_twice(graph: Graph, rng: Random) -> Graph | None:
    return replace(graph, inputs=(*graph.inputs, graph.inputs[0]))


def missing_attribute(graph: Graph, rng: Random) -> Graph | None:
    def required(node: Node) -> list[str]:
        if node.op not in OPS:
            return list(node.attrs)
        return [spec.name for spec in OPS[node.op].attrs if not spec.optional]

    i = pick(graph, rng, lambda node: bool(required(node)))
    if i is None:
        return None
    attrs = dict(graph.nodes[i].attrs)
    del attrs[rng.choice(required(graph.nodes[i]))]
    return with_attrs(graph, i, attrs)


def unknown_attribute(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng)
    return None if i is None else with_attrs(graph, i, {**graph.nodes[i].attrs, "bogus": 1})


def wrong_kind_of_attribute(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: bool(node.attrs))
    if i is None:
        return None
    attrs = dict(graph.nodes[i].attrs)
    attrs[rng.choice(list(attrs))] = Operand(0)
    return with_attrs(graph, i, attrs)


def dimension_from_the_back(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: native(node) and isinstance(node.attrs.get("dim"), int))
    if i is None:
        return None
    return with_attrs(graph, i, {**graph.nodes[i].attrs, "dim": -1})


def dimension_too_far(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: native(node) and "dim" in node.attrs)
    if i is None:
        return None
    return with_attrs(graph, i, {**graph.nodes[i].attrs, "dim": 9})


def missing_input(graph: Graph, rng: Random) -> Graph | None:
    optional = ("concat", "linear", "quantized_linear", "conv1d", "rms_norm", "moe_router")
    i = pick(
        graph, rng, lambda node: native(node) and node.op not in optional and node.inputs != ()
    )
    if i is None:
        return None
    return changed(graph, i, inputs=graph.nodes[i].inputs[:-1])


def too_many_inputs(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: native(node) and node.op != "concat")
    if i is None:
        return None
    return changed(graph, i, inputs=graph.nodes[i].inputs + graph.inputs[:1] * 8)


def state_for_a_tensor(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda n: n.op in OPS and bool(n.inputs) and n.inputs[0].type != KV)
    if i is None or graph.nodes[i].op in ("cast", "kv_write"):
        return None
    kv = Value("another state", KV)
    inputs = (kv, *graph.nodes[i].inputs[1:])
    return changed(replace(graph, inputs=(*graph.inputs, kv)), i, inputs=inputs)


def template_names_no_input(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: not native(node))
    return None if i is None else with_attrs(graph, i, {"args": (Operand(17),)})


def template_leaves_one_out(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: not native(node) and bool(node.inputs))
    return None if i is None else with_attrs(graph, i, {"args": ()})


def writes_in_place(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: not native(node))
    if i is None:
        return None
    return changed(graph, i, op=rng.choice(("aten.add_.Tensor", "aten.__iand__.Scalar")))


def unbound_symbol_in_a_type(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: not native(node))
    if i is None:
        return None
    outputs = list(graph.nodes[i].outputs)
    outputs[0] = Value(outputs[0].name, TensorType(DType.F32, (sym("unbound") + 1,)))
    kept = replace(graph, nodes=graph.nodes[: i + 1], outputs=())
    return changed(kept, i, outputs=tuple(outputs))


def unbound_symbol_in_an_attribute(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng, lambda node: not native(node))
    if i is None:
        return None
    args = graph.nodes[i].attrs["args"]
    return with_attrs(graph, i, {"args": (args, (1, sym("unbound") // 2))})


def negative_size(graph: Graph, rng: Random) -> Graph | None:
    return replace(graph, inputs=(*graph.inputs, Value("negative", TensorType(DType.F32, (-1,)))))


def negative_line(graph: Graph, rng: Random) -> Graph | None:
    i = pick(graph, rng)
    return None if i is None else changed(graph, i, loc=SourceLocation("m.py", -1))


def unknown_kind_of_state(graph: Graph, rng: Random) -> Graph | None:
    return replace(graph, inputs=(*graph.inputs, Value("cache", StateType("cache", ()))))


def layer_without_size(graph: Graph, rng: Random) -> Graph | None:
    layer = LayerState(0, 4, 4, DType.F32)
    return replace(graph, inputs=(*graph.inputs, Value("cache", StateType("kv", (layer,)))))


def latent_values_longer_than_keys(graph: Graph, rng: Random) -> Graph | None:
    layer = LayerState(1, 4, 5, DType.F32)
    return replace(graph, inputs=(*graph.inputs, Value("cache", StateType("latent", (layer,)))))


BREAKS: tuple[Break, ...] = (
    unknown_operator, odd_operator, wrong_output_type, missing_output, one_output_more,
    read_before_definition, read_of_a_stranger, defined_twice, name_taken_twice, output_not_defined,
    node_makes_a_weight, weight_among_inputs, input_among_weights, weight_of_unknown_size,
    state_as_weight, input_defined_twice, missing_attribute, unknown_attribute,
    wrong_kind_of_attribute, dimension_from_the_back, dimension_too_far, missing_input,
    too_many_inputs, state_for_a_tensor, template_names_no_input, template_leaves_one_out,
    writes_in_place, unbound_symbol_in_a_type, unbound_symbol_in_an_attribute, negative_size,
    negative_line, unknown_kind_of_state, layer_without_size, latent_values_longer_than_keys,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_graphs_pass(seed: int) -> None:
    verify(random_graph(seed))


@pytest.mark.parametrize("broken_by", BREAKS, ids=lambda f: f.__name__)
def test_each_break_is_caught(broken_by: Break) -> None:
    tried = 0
    for seed in range(200):
        graph = random_graph(seed, most=8)
        broken = broken_by(graph, Random(seed))
        if broken is None:
            continue
        tried += 1
        with pytest.raises(VerifyError):
            verify(broken)
        if tried == 12:
            return
    assert tried >= 5, "the random graphs give this rule no chance"


def stateful(reads: str) -> Graph:
    text = f"""
    graph @g(%k: f32[T, 1, 4], %slots: i64[T], %starts: i32[S + 1], %lengths: i32[S],
             %tables: i32[S, P], %kv: kv[2 x (1, 4, 4, f32)]) -> () {{
      %kv1: kv[2 x (1, 4, 4, f32)] = kv_write(%kv, %k, %k, %slots) {{layer = 0}}
      {reads}
      return
    }}"""
    return parse_graph(text)


ATTENTION = (
    "%{name}: f32[T, 1, 4] = attention(%k, %{state}, %starts, %lengths, %tables) {{layer = 0, "
    "scale = 1.0, window = 0, softcap = 0.0, sinks = false, alibi = false, "
    "reach = false}}"
)
WRITE = "%{name}: kv[2 x (1, 4, 4, f32)] = kv_write(%{state}, %k, %k, %slots) {{layer = 1}}"


def test_the_latest_version_of_a_state_may_be_read_and_written() -> None:
    lines = (
        ATTENTION.format(name="a", state="kv1"),
        WRITE.format(name="kv2", state="kv1"),
        ATTENTION.format(name="b", state="kv2"),
    )
    verify(stateful("\n".join(lines)))


@pytest.mark.parametrize(
    "line",
    [
        ATTENTION.format(name="a", state="kv"),
        WRITE.format(name="kv2", state="kv"),
        WRITE.format(name="kv2", state="kv1") + "\n" + ATTENTION.format(name="a", state="kv1"),
        WRITE.format(name="kv2", state="kv1") + "\n" + WRITE.format(name="kv3", state="kv1"),
    ],
)
def test_an_overwritten_version_of_a_state_is_neither_read_nor_written(line: str) -> None:
    with pytest.raises(VerifyError, match="after it was overwritten"):
        verify(stateful(line))


def test_an_overwritten_state_is_no_output() -> None:
    graph = stateful("")
    with pytest.raises(VerifyError, match="after it was overwritten"):
        verify(replace(graph, outputs=(graph.input("kv"),)))


def test_the_error_names_the_node_and_its_source() -> None:
    b = GraphBuilder("g")
    x = b.input("x", F)
    b.one("add", [x, x], loc=SourceLocation("modeling.py", 12, "model.layers.3"))
    graph = b.finish([])
    y = TensorType(DType.F32, (7,))
    stranger = Value("y", y)
    broken = changed(replace(graph, inputs=(x, stranger)), 0, inputs=(x, stranger))
    with pytest.raises(VerifyError) as caught:
        verify(broken)
    text = str(caught.value)
    assert "sizes 3 and 7 do not broadcast" in text
    assert "modeling.py:12 in model.layers.3" in text
    assert "%0: f32[T, 3] = add(%x, %y)" in text
