"""Raised and not raised, a graph gives the same numbers; what only looks like MLA stays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch

from graphopt.ir.builder import GraphBuilder
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.interpreter import Interpreter
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.reference import PagedState
from graphopt.ir.shape import Dim, sym
from graphopt.ir.types import LayerState, StateType, TensorType
from graphopt.passes.manager import PassContext, run_passes
from graphopt.passes.raise_mla import RaiseMla
from graphopt.passes.remove_identities import RemoveIdentities

T, S, P = sym("T"), sym("S"), sym("P")
HIDDEN, RANK, OWN, SHARED, VALUE = 11, 6, 5, 4, 3
BLOCK = 4


@dataclass(frozen=True)
class Shape:
    """How a model writes its latent attention down.

    Attributes:
        layers: how many layers.
        heads: of queries, keys and values.
        by_head: heads before tokens while keys are put together, as transformers does.
        shared_first: the shared part before the head's own.
        apart: one weight for keys and one for values, instead of one with both in turn.
        blocks: with one weight, all heads' keys before all heads' values.
        padded: zeros behind each head's value.
        joined: the query is one linear, not a concatenation.
        extras: window, softcap, sinks and alibi.
        dtype: of everything.
        plain: layers whose keys have no shared part.
        bias: the weight that makes keys and values has one.
        other: values come from another latent.
        scrambled: heads' rows are not in order.
        groups: query heads for each head of keys.
        rank: numbers in the latent.
        scaled: keys are multiplied by something after they were projected.
        gap: the shared part lies on both sides of the head's own.
    """

    layers: int = 2
    heads: int = 3
    by_head: bool = True
    shared_first: bool = False
    apart: bool = False
    blocks: bool = False
    padded: int = 0
    joined: bool = False
    extras: bool = False
    dtype: DType = DType.F64
    plain: tuple[int, ...] = ()
    bias: bool = False
    other: bool = False
    scrambled: bool = False
    groups: int = 1
    rank: int = RANK
    scaled: bool = False
    gap: bool = False


class Model:
    """Builds the graph of a ``Shape``."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.b = b = GraphBuilder("mla")
        self.x = b.input("x", TensorType(shape.dtype, (T, HIDDEN)))
        self.slots = b.input("slots", TensorType(DType.I64, (T,)))
        self.starts = b.input("starts", TensorType(DType.I32, (S + 1,)))
        self.lengths = b.input("lengths", TensorType(DType.I32, (S,)))
        self.tables = b.input("tables", TensorType(DType.I32, (S, P)))
        size = OWN + SHARED * (2 if shape.gap else 1)
        window = 5 if shape.extras else 0
        state = LayerState(shape.heads, size, VALUE + shape.padded, shape.dtype, window)
        self.size, self.window = size, window
        self.kv = b.input("kv", StateType("kv", (state,) * shape.layers))

    def graph(self) -> Graph:
        for layer in range(self.shape.layers):
            self.x = self.layer(layer, f"layers.{layer}")
        return self.b.finish([self.x])

    def linear(self, x: Value, name: str, rows: int, *, bias: bool = False) -> Value:
        dtype = self.shape.dtype
        columns = x.type.shape[-1]
        inputs = [x, self.b.weight(name, TensorType(dtype, (rows, columns)))]
        if bias:
            inputs.append(self.b.weight(f"{name}.bias", TensorType(dtype, (rows,))))
        return self.b.one("linear", inputs)

    def reshape(self, x: Value, *shape: Dim) -> Value:
        return self.b.one("reshape", [x], {"shape": shape})

    def layer(self, layer: int, path: str) -> Value:
        shape, b = self.shape, self.b
        latent = self.norm(self.linear(self.x, f"{path}.down", shape.rank), f"{path}.norm")
        rope = b.one("sin", [self.linear(self.x, f"{path}.shared", SHARED)])
        key, value = self.keys_and_values(latent, rope, path, plain=layer in shape.plain)
        query = self.query(path)
        inputs = [query, self.kv, self.starts, self.lengths, self.tables]
        attrs: dict[str, Any] = {"layer": layer, "scale": 0.4, "window": self.window}
        if shape.extras:
            attrs.update(softcap=3.0, sinks=True, alibi=True)
            head = TensorType(shape.dtype, (shape.heads * shape.groups,))
            inputs += [b.weight(f"{path}.{name}", head) for name in ("sinks", "alibi")]
        self.kv = b.one("kv_write", [self.kv, key, value, self.slots], {"layer": layer})
        inputs[1] = self.kv
        mixed = b.one("attention", inputs, attrs)
        flat = self.reshape(mixed, T, shape.heads * shape.groups * (VALUE + shape.padded))
        return b.one("add", [self.x, self.linear(flat, f"{path}.out", HIDDEN)])

    def norm(self, x: Value, name: str) -> Value:
        weight = self.b.weight(name, TensorType(self.shape.dtype, (x.type.shape[-1],)))
        return self.b.one("rms_norm", [x, weight], {"eps": 1e-5})

    def query(self, path: str) -> Value:
        shape, b = self.shape, self.b
        heads = shape.heads * shape.groups
        flat = self.linear(self.x, f"{path}.q", heads * self.size)
        query = self.reshape(flat, T, heads, self.size)
        if shape.joined:
            return query
        sizes = (SHARED, OWN) if shape.shared_first else (OWN, self.size - OWN)
        parts = b.node("split", [query], {"dim": 2, "sizes": sizes})
        turned = [b.one("permute", [part], {"dims": (1, 0, 2)}) for part in parts]
        turned[0] = b.one("mul", [turned[0]], {"scalar": 1.5})
        whole = b.one("concat", turned, {"dim": 2})
        return b.one("permute", [whole], {"dims": (1, 0, 2)})

    def keys_and_values(
        self, latent: Value, rope: Value, path: str, *, plain: bool
    ) -> tuple[Value, Value]:
        shape, b, heads = self.shape, self.b, self.shape.heads
        second = self.norm(latent, f"{path}.again") if shape.other else latent
        if shape.apart or shape.other:
            own = self.by_heads(self.linear(latent, f"{path}.k", heads * OWN), OWN)
            value = self.by_heads(self.linear(second, f"{path}.v", heads * VALUE), VALUE)
        elif shape.blocks:
            up = self.linear(latent, f"{path}.up", heads * (OWN + VALUE))
            sizes = (heads * OWN, heads * VALUE)
            flat = b.node("split", [up], {"dim": 1, "sizes": sizes})
            own, value = self.by_heads(flat[0], OWN), self.by_heads(flat[1], VALUE)
        else:
            rows = heads * (OWN + VALUE)
            up = self.linear(latent, f"{path}.up", rows, bias=shape.bias)
            both = self.by_heads(up, OWN + VALUE)
            own, value = b.node("split", [both], {"dim": 2, "sizes": (OWN, VALUE)})
        if shape.scaled:
            own = b.one("tanh", [own])
        if shape.scrambled:
            axis = 0 if shape.by_head else 1
            first, rest = b.node("split", [own], {"dim": axis, "sizes": (1, heads - 1)})
            own = b.one("concat", [rest, first], {"dim": axis})
        return self.whole_key(own, rope, path, plain=plain), self.whole_value(value)

    def by_heads(self, flat: Value, size: int) -> Value:
        split = self.reshape(flat, T, self.shape.heads, size)
        return self.b.one("permute", [split], {"dims": (1, 0, 2)}) if self.shape.by_head else split

    def whole_key(self, own: Value, rope: Value, path: str, *, plain: bool) -> Value:
        shape, b, heads = self.shape, self.b, self.shape.heads
        if plain:
            wide = self.by_heads(self.linear(rope, f"{path}.plain", heads * SHARED), SHARED)
        else:
            before = (1, T, SHARED) if shape.by_head else (T, 1, SHARED)
            after = (heads, T, SHARED) if shape.by_head else (T, heads, SHARED)
            wide = b.one("expand", [self.reshape(rope, *before)], {"shape": after})
        parts = [wide, own] if shape.shared_first else [own, wide]
        key = b.one("concat", [wide, *parts] if shape.gap else parts, {"dim": 2})
        return b.one("permute", [key], {"dims": (1, 0, 2)}) if shape.by_head else key

    def whole_value(self, value: Value) -> Value:
        if self.shape.padded:
            value = self.b.one("pad_constant", [value], {"pads": (0, self.shape.padded)})
        by_head = self.shape.by_head
        return self.b.one("permute", [value], {"dims": (1, 0, 2)}) if by_head else value


def raised(graph: Graph) -> tuple[Graph, PassContext]:
    context = PassContext()
    done, _ = run_passes(graph, [RaiseMla(), RemoveIdentities()], context)
    return done, context


def played(graph: Graph, weights: dict[str, torch.Tensor], seed: int) -> torch.Tensor:
    """Chunks and single tokens of two sequences in memory that is NaN where nobody wrote."""
    rng, generator = Random(seed), torch.Generator().manual_seed(seed)
    dtype = graph.inputs[0].type.dtype
    state = PagedState.allocate(graph.input("kv").type, 12, BLOCK, fill=math.nan)
    blocks = rng.sample(range(12), 12)
    tables = torch.tensor([blocks[:6], blocks[6:]], dtype=torch.int32)
    done, out = [0, 0], []
    interpreter = Interpreter(graph, weights)
    for counts in ((7, 3), (1, 1), (1, 5), (4, 1)):
        slots = [
            int(tables[s, p // BLOCK]) * BLOCK + p % BLOCK
            for s, count in enumerate(counts)
            for p in range(done[s], done[s] + count)
        ]
        done = [a + b for a, b in zip(done, counts, strict=True)]
        x = torch.randn(sum(counts), HIDDEN, generator=generator, dtype=torch.float64)
        (logits,) = interpreter.run(
            {
                "x": x.to(getattr(torch, dtype.torch_name)),
                "slots": torch.tensor(slots),
                "starts": torch.tensor([0, counts[0], sum(counts)], dtype=torch.int32),
                "lengths": torch.tensor(done, dtype=torch.int32),
                "tables": tables,
                "kv": state,
            }
        )
        out.append(logits)
    return torch.cat(out)


def weights_of(graph: Graph) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        value.name: torch.randn(value.type.shape, generator=generator, dtype=torch.float64) / 2
        for value in graph.weights
    }


SHAPES = {
    "as transformers writes it": Shape(),
    "tokens before heads": Shape(by_head=False),
    "the shared part first": Shape(shared_first=True, heads=2),
    "keys and values of two weights": Shape(apart=True),
    "all keys before all values": Shape(blocks=True, by_head=False),
    "padded values": Shape(padded=6),
    "queries in one piece": Shape(joined=True, shared_first=True),
    "window, softcap, sinks and position bias": Shape(extras=True, layers=3),
    "one layer of many heads": Shape(layers=1, heads=8),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_numbers_stay(name: str) -> None:
    graph = Model(SHAPES[name]).graph()
    weights = weights_of(graph)
    changed, _ = raised(graph)
    for seed in (0, 1):
        expected = played(graph, weights, seed)
        assert expected.isfinite().all()
        torch.testing.assert_close(played(changed, weights, seed), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SHAPES)
def test_memory_holds_a_latent_and_the_shared_part(name: str) -> None:
    shape = SHAPES[name]
    graph = Model(shape).graph()
    changed, context = raised(graph)
    layer = LayerState(1, RANK + SHARED, RANK, DType.F64, 5 if shape.extras else 0)
    assert changed.input("kv").type == StateType("latent", (layer,) * shape.layers)
    assert print_graph(parse_graph(print_graph(changed))) == print_graph(changed)
    assert not changed.nodes_named("kv_write")
    assert len(changed.nodes_named("latent_write")) == shape.layers
    (entry,) = context.ledger.entries
    old, new = (one.input("kv").type.bytes_per_token for one in (graph, changed))
    assert (entry.rule, entry.where, entry.applied) == ("raise-mla", "%kv", True)
    assert entry.saves_bytes == old - new > 0
    assert f"{new:,} bytes of each token instead of {old:,}" in entry.reason


def test_queries_are_taken_apart_where_they_were_joined() -> None:
    changed, _ = raised(Model(Shape(layers=1)).graph())
    assert not [node for node in changed.nodes_named("slice") if T in node.output.type.shape]
    (attention,) = changed.nodes_named("attention")
    assert attention.inputs[0].type.shape == (T, 3, RANK + SHARED)
    assert attention.output.type.shape == (T, 3, RANK)
    assert "layers.0.up" not in {node.inputs[1].name for node in changed.nodes_named("linear")}


def test_a_window_and_more_stay_with_the_attention() -> None:
    changed, _ = raised(Model(Shape(extras=True)).graph())
    for node in changed.nodes_named("attention"):
        assert (node.attrs["window"], node.attrs["softcap"]) == (5, 3.0)
        assert node.attrs["sinks"]
        assert node.attrs["alibi"]
        assert len(node.inputs) == 7


REFUSED = {
    "a bias": (Shape(bias=True), "linear with a bias", 2),
    "two latents": (Shape(other=True), "not made from the same latent", 2),
    "heads out of order": (Shape(scrambled=True), "do not lie evenly", 2),
    "keys that are computed": (Shape(scaled=True), "made by tanh", 2),
    "two shared parts": (Shape(gap=True), "not one part of the head's own", 2),
    "one layer of another kind": (Shape(plain=(1,)), "share no part of their keys", 1),
    "fewer heads of keys than of queries": (Shape(groups=2, joined=True), "other heads", 1),
    "a latent that is larger": (Shape(rank=60), "latents would take", 1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_nearly_it_is_refused_with_a_reason(name: str) -> None:
    shape, words, count = REFUSED[name]
    graph = Model(shape).graph()
    done, context = raised(graph)
    assert done.input("kv") is graph.input("kv")
    entries = context.ledger.entries
    assert len(entries) == count
    for entry in entries:
        assert not entry.applied
        assert words in entry.reason
        assert entry.culprits or "latents would take" in entry.reason


def test_models_of_another_kind_are_not_mentioned() -> None:
    for shape in (Shape(plain=(0, 1)), Shape(heads=1)):
        graph = Model(shape).graph()
        context = PassContext()
        result = RaiseMla()(graph, context)
        assert result.graph is graph
        assert not result.modified
        assert not context.ledger.entries


def test_layers_that_nobody_writes_stay() -> None:
    model = Model(Shape(layers=2))
    model.x = model.layer(0, "first")
    done, context = raised(model.b.finish([model.x]))
    assert done.input("kv").type.kind == "kv"
    assert [entry.reason for entry in context.ledger.entries] == [
        "some of its layers are not written, or written twice"
    ]


def test_without_fuel_nothing_happens() -> None:
    graph = Model(Shape()).graph()
    assert RaiseMla()(graph, PassContext(fuel=0)).graph is graph


def test_bfloat16_rounds_as_much_as_before() -> None:
    graph = Model(Shape(dtype=DType.BF16)).graph()
    exact = Model(Shape()).graph()
    weights = {name: w.bfloat16().double() for name, w in weights_of(graph).items()}
    changed, _ = raised(graph)

    def error(one: Graph) -> float:
        got, want = played(one, weights, 3).double(), played(exact, weights, 3)
        return float((got - want).norm() / want.norm())

    assert 1e-3 < error(changed) < 1.5 * error(graph)
